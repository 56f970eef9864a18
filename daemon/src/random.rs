//! Random numbers of the kernel's.

use ring::rand::{SecureRandom, SystemRandom};

/// A random number.
pub fn random_u64() -> u64 {
    u64::from_be_bytes(random_bytes())
}

/// Random bytes.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random bytes, or nothing here can be secure");
    bytes
}
