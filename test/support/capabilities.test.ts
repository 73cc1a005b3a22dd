import { beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { requireCapability } from './capabilities.ts';

describe('requireCapability', () => {
  let warn: MockInstance<typeof console.warn>;
  beforeEach(() => {
    warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
    vi.stubEnv('CI', '');
  });

  it('says nothing where nothing is missing', () => {
    expect(requireCapability()).toBe(true);
    expect(warn).not.toHaveBeenCalled();
  });

  it('says what is missing and which package has it', () => {
    vi.stubEnv('PATH', '/nowhere');
    expect(requireCapability('umoci', 'erofs-utils')).toBe(false);
    expect(warn).toHaveBeenCalledWith(expect.stringMatching(/umoci: .*apt-get install umoci\n.*erofs-utils/));
  });

  it('throws where CI is set', () => {
    vi.stubEnv('PATH', '/nowhere');
    vi.stubEnv('CI', 'true');
    expect(() => requireCapability('umoci')).toThrow('apt-get install umoci');
  });
});
