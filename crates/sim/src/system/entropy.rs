//! Randomness that follows from the seed, in libraries that ask the operating system for it.
//!
//! The standard library's hash maps, tokio's `select!` and the random numbers of openraft's election timeouts all begin with bytes
//! that libc's `getrandom` gives. A program that defines a function of that name is asked instead of libc, by the standard library
//! (a weak symbol) as by the crate `getrandom` (`dlsym`). So there is one below. On a thread that was not given a seed it asks the
//! kernel, as libc would: whoever links this crate and simulates nothing notices nothing.
//!
//! Caveat: what is seeded once for all threads, or counts something for the whole process, goes on counting. So one process runs one
//! seed. [`is_ours`] tells whether the linker has done what is expected here; without it no run would be what its seed says.

use crate::rng::Rng;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::cell::RefCell;
use std::ffi::{c_uint, c_void};
use std::hash::{BuildHasher, RandomState};

/// A stream of random numbers that nothing else draws from.
const PURPOSE: u64 = 100;

thread_local! {
    static SEEDED: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// From now on all randomness that this thread asks the system for follows from `seed`.
pub fn follow(seed: u64) {
    SEEDED.set(Some(Rng::new(seed, PURPOSE)));
}

/// Whether the randomness of hash maps and of the `rand` crate follows from the seed, as tried on threads of their own.
pub fn is_ours() -> bool {
    let draw = || {
        std::thread::spawn(|| {
            follow(1);
            let hashed = RandomState::new().hash_one(1u64);
            (hashed, system_number())
        })
        .join()
        .expect("drawing random numbers does not fail")
    };
    draw() == draw()
}

/// A number made from the system's randomness.
fn system_number() -> u64 {
    SmallRng::from_os_rng().next_u64()
}

/// Stands in for libc's `getrandom(2)`: fills `length` bytes from `buffer` on, and returns how many.
///
/// # Safety
///
/// As for libc's: `buffer` must be valid for writes of `length` bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller promises that so many bytes are there; they need not be initialised, so they are before a slice is made of
    // them.
    let bytes = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    // A thread that is just ending has no seed any more.
    let seeded = SEEDED.try_with(|seeded| fill(seeded.borrow_mut().as_mut()?, bytes));
    match seeded {
        Ok(Some(())) => length as isize,
        // Nothing sensible can be done without randomness, and `errno`, where callers look for the reason, is not ours to set.
        _ => ask_kernel(bytes).unwrap_or_else(|_| std::process::abort()) as isize,
    }
}

fn ask_kernel(bytes: &mut [u8]) -> rustix::io::Result<usize> {
    use rustix::rand::{GetRandomFlags, getrandom};
    rustix::io::retry_on_intr(|| getrandom(&mut *bytes, GetRandomFlags::empty()))
}

fn fill(rng: &mut Rng, bytes: &mut [u8]) -> Option<()> {
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&rng.any().to_le_bytes()[..piece.len()]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_follows_from_the_seed_and_only_where_there_is_one() {
        assert!(is_ours());
        let unseeded = || std::thread::spawn(system_number).join();
        assert_ne!(unseeded().unwrap(), unseeded().unwrap());
    }
}
