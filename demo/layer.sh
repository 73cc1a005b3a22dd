#!/bin/sh
# Makes one image layer: runs commands in a root file system and archives what they changed.
#   layer.sh LOWERS UPPER APT TAR COMMANDS
# LOWERS  directories of the layers below, the nearest first, joined by colons
# UPPER   empty directory that receives the changes; a LOWER of the next layer
# APT     directory that apt uses for lists and packages, so that none of them end in the layer
# TAR     the layer as an OCI tar, with whiteouts; the same bytes whenever the changes are the same
# COMMANDS  what the layer does, as a shell script that runs in the root file system
# Must run in mount and pid namespaces of its own (unshare --mount --pid --fork): its mounts end with it.
set -eu
lowers=$1 upper=$2 apt=$3 tar=$4 commands=$5
: "${SOURCE_DATE_EPOCH:?must be set}"

scratch=$upper.scratch
root=$scratch/root
mkdir -p "$root" "$scratch/work" "$apt/lists" "$apt/cache"
# Without these options overlayfs may keep a renamed directory or a changed mode by reference to the layer below,
# which no tar can say.
mount -t overlay overlay -o "lowerdir=$lowers,upperdir=$upper,workdir=$scratch/work,redirect_dir=off,metacopy=off,index=off" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$apt/lists" "$root/var/lib/apt/lists"
mount --bind "$apt/cache" "$root/var/cache/apt"
for file in /etc/resolv.conf /etc/hosts; do
  [ -e "$root$file" ] || : >"$root$file"
  mount --bind "$file" "$root$file"
done
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
  /bin/sh -euc "$commands" </dev/null
umount -R -l "$root"

# The layer is archived from a tree of hard links to UPPER, in which overlayfs' marks become OCI's.
links=$scratch/links
cp -al "$upper" "$links"
rm -f "$links/etc/resolv.conf" "$links/etc/hosts"
find "$links" -type c | while IFS= read -r path; do
  [ "$(stat -c %t:%T "$path")" = 0:0 ] || continue
  rm "$path"
  : >"${path%/*}/.wh.${path##*/}"
done
find "$links" -type d | while IFS= read -r path; do
  mark=$(getfattr --absolute-names --only-values -n trusted.overlay.opaque "$path" 2>/dev/null) || continue
  [ "$mark" != y ] || : >"$path/.wh..wh..opq"
done
tar --create --file "$tar" --directory "$links" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime \
  --numeric-owner --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
  --xattrs --xattrs-exclude='trusted.*' --xattrs-exclude='security.selinux' .
rm -rf "$scratch"
