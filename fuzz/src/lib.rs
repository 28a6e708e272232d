//! What all targets share: memory is counted, so that no input makes the code under test take much more than it is long.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What any input may take: buffers of fixed size, a store, a disk in memory.
const BASE_BYTES: usize = 64 << 20;

/// What an input may take for each of its bytes beyond that.
const BYTES_PER_BYTE: usize = 4096;

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn took(bytes: usize) {
    let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST_BYTES.fetch_max(live, Ordering::Relaxed);
}

fn gave(bytes: usize) {
    LIVE_BYTES.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call is passed on as it is to the system's allocator; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `entry`, and panics if it took more memory at once than `input` allows.
pub fn bounded(input: &[u8], entry: fn(&[u8])) {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    MOST_BYTES.store(before, Ordering::Relaxed);
    entry(input);
    let took = MOST_BYTES.load(Ordering::Relaxed).saturating_sub(before);
    let allowed = BASE_BYTES + BYTES_PER_BYTE * input.len();
    assert!(
        took <= allowed,
        "an input of {} bytes took {took} bytes of memory, {allowed} are allowed",
        input.len()
    );
}
