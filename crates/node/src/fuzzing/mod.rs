//! Entry points of the fuzzers: bytes that peers and administrators may send, and what must be true whatever they are. Built for tests
//! and fuzzers only; see `fuzz/README.md`.
//!
//! An entry point panics on what must not be: a panic of the code under test, or a property that does not hold. Common to all of them: a
//! message that was read is the same after it was written and read once more.

mod admin_requests;
mod peer_frames;
mod snapshot_chunks;

pub use admin_requests::admin_requests;
pub use peer_frames::peer_frames;
pub use snapshot_chunks::snapshot_chunks;

use prost::Message;

/// Reads a message, and checks that it stays what it is when it is written.
fn read<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(&message.encode_to_vec()[..]);
    assert!(
        again.is_ok_and(|again| again == message),
        "{message:?} is another once it was written"
    );
    Some(message)
}

/// A message as the type it stands for, if it stands for one; checked to come back from its bytes.
fn read_as<B, T>(bytes: &[u8]) -> Option<T>
where
    B: Message + Default + PartialEq + std::fmt::Debug + for<'a> From<&'a T>,
    T: TryFrom<B> + PartialEq + std::fmt::Debug,
{
    let value = T::try_from(read::<B>(bytes)?).ok()?;
    let again = T::try_from(B::from(&value));
    assert!(
        again.is_ok_and(|again| again == value),
        "{value:?} is another once it was written"
    );
    Some(value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn peer_frames_replayed() {
        eaves_corpus::replay("peer_frames", super::peer_frames);
    }

    #[test]
    fn admin_requests_replayed() {
        eaves_corpus::replay("admin_requests", super::admin_requests);
    }

    #[test]
    fn snapshot_chunks_replayed() {
        eaves_corpus::replay("snapshot_stream", super::snapshot_chunks);
    }
}
