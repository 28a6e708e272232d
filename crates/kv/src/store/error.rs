//! Every error a key-value client can see, with its gRPC code and etcd's exact words.
//!
//! Clients match on the words, not on the code (etcd's own Go client maps by string), so this one table is part of the interface. An
//! error of a write travels from the state machine to the service as the one byte that [`KvError::to_byte`] gives, inside the answer to
//! the command, and is therefore the same on every node.

use tonic::{Code, Status};

/// A refusal, by what was wrong. The number of a variant goes into answers between nodes of one version: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KvError {
    /// The key of a request or compare is empty.
    EmptyKey = 1,
    /// `ignore_value` or `ignore_lease` on a key that is not there, or a transaction holds an operation without content.
    KeyNotFound = 2,
    /// `ignore_value` together with a value.
    ValueProvided = 3,
    /// `ignore_lease` together with a lease.
    LeaseProvided = 4,
    /// More operations in one transaction than the limit.
    TooManyOps = 5,
    /// A transaction would write one key twice.
    DuplicateKey = 6,
    /// A sort order or target that does not exist.
    InvalidSortOption = 7,
    /// The revision asked for is below the compacted one.
    Compacted = 8,
    /// The revision asked for has not happened yet.
    FutureRevision = 9,
    /// The store is larger than its quota.
    NoSpace = 10,
    /// A put with a lease that does not exist (none can, until leases are there).
    LeaseNotFound = 11,
    /// A request above the size limit.
    RequestTooLarge = 12,
    /// The node falls behind and sheds load.
    TooManyRequests = 13,
    /// No leader is known.
    NoLeader = 14,
    /// The leader changed while the request was under way.
    LeaderChanged = 15,
    /// The node is shutting down.
    Stopped = 16,
    /// The request took too long; a write may or may not have happened.
    TimedOut = 17,
    /// The local state file is damaged: what it holds cannot be trusted, and is not given out.
    Corrupt = 18,
    /// A command that this version does not know, or cannot read. Not in etcd: only a newer or broken node proposes such a thing.
    UnknownCommand = 19,
}

impl KvError {
    /// All of them, in the order of their numbers.
    pub const ALL: [KvError; 19] = [
        KvError::EmptyKey,
        KvError::KeyNotFound,
        KvError::ValueProvided,
        KvError::LeaseProvided,
        KvError::TooManyOps,
        KvError::DuplicateKey,
        KvError::InvalidSortOption,
        KvError::Compacted,
        KvError::FutureRevision,
        KvError::NoSpace,
        KvError::LeaseNotFound,
        KvError::RequestTooLarge,
        KvError::TooManyRequests,
        KvError::NoLeader,
        KvError::LeaderChanged,
        KvError::Stopped,
        KvError::TimedOut,
        KvError::Corrupt,
        KvError::UnknownCommand,
    ];

    /// The gRPC code and the message, exactly as etcd has them.
    pub fn code_and_message(self) -> (Code, &'static str) {
        use KvError::*;
        match self {
            EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
            KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            TooManyOps => (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            DuplicateKey => (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
            Compacted => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            FutureRevision => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            NoSpace => (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            TooManyRequests => (Code::ResourceExhausted, "etcdserver: too many requests"),
            NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
            Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
            UnknownCommand => (Code::Unimplemented, "eaves: unknown command"),
        }
    }

    /// The byte that stands for this error in an answer; never 0, which stands for success.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The error a byte stands for, if any.
    pub fn from_byte(byte: u8) -> Option<KvError> {
        Self::ALL.into_iter().find(|error| error.to_byte() == byte)
    }
}

impl std::fmt::Display for KvError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code_and_message().1)
    }
}

impl std::error::Error for KvError {}

impl From<KvError> for Status {
    fn from(error: KvError) -> Status {
        let (code, message) = error.code_and_message();
        Status::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_its_byte_and_none_is_success() {
        for (i, error) in KvError::ALL.into_iter().enumerate() {
            assert_eq!(error.to_byte() as usize, i + 1);
            assert_eq!(KvError::from_byte(error.to_byte()), Some(error));
        }
        assert_eq!(KvError::from_byte(0), None);
        assert_eq!(KvError::from_byte(200), None);
    }

    #[test]
    fn the_status_carries_code_and_exact_words() {
        let status = Status::from(KvError::Compacted);
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(
            status.message(),
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
}
