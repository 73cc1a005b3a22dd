/** What the demo image is made of. */

export interface LayerRecipe {
  readonly name: string;
  /** What is in it, for people. */
  readonly about: string;
  /** Shell commands that run in the root file system of the layers below. */
  readonly commands: string;
}

/** Every time in the image: 2025-05-20T00:00:00Z, in seconds. */
export const SOURCE_DATE_EPOCH = 1_747_699_200;

/** The program that the demo runs out of the image: where it is, and how to run it in a chroot. */
export const PROGRAM: readonly string[] = ['/usr/bin/python3', '/opt/demo/solve.py'];

const SOLVE_PY = `
import platform
import numpy
a = numpy.random.default_rng(7).random((200, 200))
x = numpy.linalg.solve(a, a.sum(axis=1))
print("Python", platform.python_version(), "with numpy", numpy.__version__,
      "solved 200 equations, error below 1e-9:", bool(abs(x - 1).max() < 1e-9))
`;

const install = (packages: string) =>
  `apt-get update -qq
apt-get install -y -qq --no-install-recommends ${packages}`;

/** Logs and caches differ from one run to the next. */
const TIDY = 'find /var/log -type f -delete; rm -f /var/cache/ldconfig/aux-cache';

/** The layers over the base system, lowest first. */
export const LAYERS: readonly LayerRecipe[] = [
  {
    name: 'python',
    about: 'python3 with numpy and PIL, ping with a file capability',
    commands: `${install('python3 python3-numpy python3-pil libcap2-bin iputils-ping')}\n${TIDY}`,
  },
  {
    name: 'tools',
    about: 'git, gcc and make',
    commands: `${install('git gcc libc6-dev make')}\n${TIDY}`,
  },
  {
    name: 'slim',
    about: 'removes documentation and translations, changes modes, owners and types',
    commands: `
rm -rf /usr/share/doc/* /usr/share/man/*
rm -rf /usr/share/locale; mkdir /usr/share/locale; touch /usr/share/locale/none
rm -rf /usr/share/info; ln -s doc /usr/share/info
ln /usr/bin/git /usr/local/bin/git-again
chmod 0700 /usr/lib/git-core
chown 1000:1000 /srv
echo 'Made for the demo of dadi-mirror.' >>/etc/motd
${TIDY}`,
  },
  {
    name: 'app',
    about: 'a small program that uses numpy',
    commands: `
mkdir -p /opt/demo
cat >/opt/demo/solve.py <<'END'
${SOLVE_PY.trim()}
END
chmod 0755 /opt/demo/solve.py
mkfifo /run/demo.fifo`,
  },
];
