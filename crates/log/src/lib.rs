//! The durable log of one node: an append-only sequence of Raft entries, kept on disk, its newest part in memory.
//!
//! It is the same for a voter and for a listener. The log knows nothing of consensus, of the network or of time: it appends, cuts,
//! forgets from the front, and says what is durable. It also does not block: changes take effect in memory at once and join a queue;
//! whoever drives the log takes all that waits as one job and runs it where blocking is allowed.
//!
//! ```
//! # use eaves_log::{sim::SimDisk, *};
//! # use std::{path::Path, sync::Arc};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let disk = Arc::new(SimDisk::new()); // or RealDisk
//! let (log, _recovered) = Log::open(disk, Path::new("/data/log"), Options::default())?;
//! let ticket = log.append(&[Frame::encode(LogId::new(1, 0), Kind::Normal, b"hello")])?;
//! assert_eq!(log.read(0, 0, 1 << 20)?[0].payload(), "hello"); // readable at once ...
//! let job = log.next_flush().expect("the append waits");
//! assert!(log.flushed(job.run())? >= ticket); // ... and now durable
//! # Ok(())
//! # }
//! ```
//!
//! A room for each thing: [`Frame`] is an entry as bytes, [`Chain`] the running value over entries, [`Log`] the handle that everybody
//! holds, [`FlushJob`] the work for the disk, [`Disk`] what is asked of one, [`FrozenDisk`] one that
//! stays as it is, [`sim`] one that forgets. Inside, `writer` is the only
//! place that writes, `recovery` the only one that interprets what was found, `record` and `segment` say how the bytes lie.
//!
//! # Files
//!
//! ```text
//! LOCK                                      one process per directory (DirLock; taken by the node for its whole directory)
//! state                                     hard state and purge point, replaced as a whole
//! 00000000000000000000-0000000001.seg       entries 0 .. 999           named by first index and sequence number
//! 00000000000000001000-0000000002.seg       entries 1000 ..
//!
//! a segment:
//! ┌────────────────────────────────┬──────────┬──────────┬──────────┬────────────────────────────┐
//! │ header: version, first index,  │ record   │ record   │ record   │ zeroes: reserved, so that  │
//! │ sequence number, id and chain  │          │          │          │ a write changes no         │
//! │ value of the entry before      │          │          │          │ metadata of the file       │
//! └────────────────────────────────┴──────────┴──────────┴──────────┴────────────────────────────┘
//!
//! a record:
//! ┌───────┬──────────┬────────┬──────────────────────────────────────────────────────────┬─────┐
//! │ chain │ unsynced │ crc32c │ frame: length, crc32c, term, index, kind, payload        │ pad │
//! └───────┴──────────┴────────┴──────────────────────────────────────────────────────────┴─────┘
//! ```
//!
//! The frame is the very bytes that travel between nodes. All numbers are little endian.
//!
//! **Nothing on disk is ever overwritten.** A segment is written once, front to back. To cut the log after an entry, or to start anew
//! after a snapshot, a new segment is made with a higher sequence number; from the moment it has its name, it replaces all that older
//! segments hold from its first index on (everything, if it is a reset). So a cut takes effect by one atomic rename, readers need not
//! be kept from files that are being cut, and what a cut leaves behind can never be taken for what was written later. The price is a
//! new file per cut; cuts are rare, and the file before gives its unused space back.
//!
//! # Invariants
//!
//! | name | says |
//! | --- | --- |
//! | `contiguous` | entries have consecutive indexes from the base on; terms never go back |
//! | `chain` | each entry's chain value is the one before it mixed with the entry: in memory, in records, in headers |
//! | `durable-before-acknowledged` | a ticket or durable index is told only after the sync that covers it |
//! | `prefix` | after a crash the log is the result of a prefix of the queued changes, and of all that were told durable |
//! | `sealed-synced` | a segment's records are all synced before it gets a successor |
//! | `unflushed-kept` | what is not durable is in the cache |
//! | `one-flush` | one flush at a time, and it owns the writer |
//!
//! # Recovery, case by case
//!
//! Opening reads every byte of every segment that counts. Going through the entries in order, the next one is
//!
//! 1. **a whole record**: its head and its frame match their checksums, and it continues the chain. Taken.
//! 2. **missing or broken in a segment that has a successor.** By `sealed-synced` it was durable. *Refused.*
//! 3. **whole, but it does not continue the chain**, or has another index. No interrupted write does that. *Refused.*
//! 4. **broken in the newest segment, with all its sectors there.** A disk writes a sector whole or not at all, and where nothing was
//!    written a segment reads as zero; so an interrupted write lacks a record's end or a whole sector of it. What lacks neither and is
//!    wrong was damaged later, when it may have been acknowledged. *Refused.*
//! 5. **missing or broken in the newest segment, with a witness behind it**: somewhere behind lies a record head which says that all
//!    entries below some later index had been synced when it was written. So this one had been. *Refused.*
//! 6. **missing or broken in the newest segment, without a witness**: the end of the log. What lies behind it is the remains of one
//!    interrupted batch, of which the disk may have kept any part in any order. None of it was told durable. If there is anything
//!    but zeroes, the log goes on in a new segment, so that the remains are never looked at again.
//!
//! *Refused* means that the log does not open, and the error names file, byte and entry. It is the right end: a voter that forgets
//! what it acknowledged can lose a committed entry of the whole group, while a voter that stays away costs nothing but itself.
//! A broken header or state file is refused too: both are durable before they have their names, so they are never torn.
//!
//! Two things make case 6 airtight. Records whose being synced is not proven by a later one are written again, as they are, before
//! anything else happens: the process may have been killed between write and sync, or a sync may have failed, after which some kernels
//! take pages for clean that never reached the disk. And a failed write or sync poisons the log for good: the only way on is to open
//! it again and see what is really there.
//!
//! # Assumptions about the media
//!
//! - A sector of 512 bytes is written whole or not at all.
//! - A sync that returns success is true.
//! - Writing a sector again with the same bytes in its durable part does not endanger that part, whenever the power fails.
//! - Renaming over a name is atomic, and durable after the directory is synced.
//! - Damage is noticed with the strength of CRC-32C per record and of a 64-bit chain. It is not proof against an adversary.
//!
//! # What it cannot notice
//!
//! - **Some damage to the last batch.** Nothing was written behind it that could be its witness. Where a record of it lost its end or a
//!   sector, or where a record that ends in zeroes is wrong, that looks like a torn write (case 6). The same goes for a newest segment that lost its end or is gone as a whole. The node closes most of this gap: its state machine
//!   remembers how far it has applied, and asks [`Log::require_at_least`] on start.
//! - **Damage to old entries while the log is open**, until they are read. Every read from disk verifies what it returns.
//! - Oldest segments that somebody deleted: the log begins later then, as if they had been released.
//!
//! # Costs
//!
//! An entry is copied once, into the buffer of one write per batch. Appending and flushing an entry of 300 bytes takes about a quarter
//! of a microsecond of processor time apart from the kernel's (`examples/append_cost.rs`). Opening reads the whole log, about one
//! second per few gigabytes from memory; retention bounds it. A full segment costs a new file and four syncs, once per 32 MiB.

mod cache;
mod chain;
pub mod disk;
mod error;
mod flush;
mod frame;
mod frozen;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod lock;
mod log;
mod record;
mod recovery;
mod released;
mod segment;
pub mod sim;
mod state;
mod state_file;
mod writer;

pub use chain::{Base, Chain};
pub use disk::{Disk, DiskFile, FileLock, RealDisk};
pub use error::{Damage, DiskError, OpenError, Poisoned, ReadError, WriteError};
pub use flush::{FlushDone, FlushJob};
pub use frame::{
    FRAME_HEADER_BYTES, Frame, FrameError, Kind, LogId, MAX_FRAME_BYTES, MAX_INDEX,
    MAX_PAYLOAD_BYTES,
};
pub use frozen::{FrozenDisk, FrozenFile};
pub use lock::{DirLock, LOCK_FILE, LockError};
pub use log::{Log, LogStats, Options, Recovered, Ticket};
pub use released::Released;
