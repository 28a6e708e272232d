//! The bytes between the services and the state machine: commands down through the log, answers back up.
//!
//! A command is `[kind u8][protobuf]`, an answer `[0][protobuf]` or `[error u8]`. The kinds are part of the log's format: append, never
//! renumber. Nothing here checks a request; the service does that before it proposes, and the state machine stays total without it.

use super::error::KvError;
use crate::proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, TxnRequest};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// What can be written through the log.
#[derive(Clone, Debug, PartialEq)]
pub enum KvCommand {
    /// Answered with a `PutResponse`.
    Put(PutRequest),
    /// Answered with a `DeleteRangeResponse`.
    DeleteRange(DeleteRangeRequest),
    /// Answered with a `TxnResponse`.
    Txn(TxnRequest),
    /// Answered with a `CompactionResponse`.
    Compact(CompactionRequest),
}

const KIND_PUT: u8 = 1;
const KIND_DELETE_RANGE: u8 = 2;
const KIND_TXN: u8 = 3;
const KIND_COMPACT: u8 = 4;

const ANSWER_OK: u8 = 0;

impl KvCommand {
    /// The bytes to give to `Node::write`.
    pub fn encode(&self) -> Bytes {
        match self {
            KvCommand::Put(request) => tagged(KIND_PUT, request),
            KvCommand::DeleteRange(request) => tagged(KIND_DELETE_RANGE, request),
            KvCommand::Txn(request) => tagged(KIND_TXN, request),
            KvCommand::Compact(request) => tagged(KIND_COMPACT, request),
        }
    }

    /// Reads a command; keys and values are slices of `bytes`, not copies.
    pub fn decode(mut bytes: Bytes) -> Result<KvCommand, KvError> {
        if bytes.is_empty() {
            return Err(KvError::UnknownCommand);
        }
        let body = bytes.split_off(1);
        match bytes[0] {
            KIND_PUT => PutRequest::decode(body).map(KvCommand::Put),
            KIND_DELETE_RANGE => DeleteRangeRequest::decode(body).map(KvCommand::DeleteRange),
            KIND_TXN => TxnRequest::decode(body).map(KvCommand::Txn),
            KIND_COMPACT => CompactionRequest::decode(body).map(KvCommand::Compact),
            _ => return Err(KvError::UnknownCommand),
        }
        .map_err(|_| KvError::UnknownCommand)
    }
}

/// The bytes of an answer. Its header has the revision; the service that answers fills in cluster, member and term.
pub fn encode_answer<M: Message>(answer: &Result<M, KvError>) -> Bytes {
    match answer {
        Ok(response) => tagged(ANSWER_OK, response),
        Err(error) => Bytes::copy_from_slice(&[error.to_byte()]),
    }
}

/// Reads an answer. Bytes that are neither a response nor an error known here (a leader of another version?) are `UnknownCommand`.
pub fn decode_answer<M: Message + Default>(mut bytes: Bytes) -> Result<M, KvError> {
    if bytes.is_empty() {
        return Err(KvError::UnknownCommand);
    }
    let body = bytes.split_off(1);
    match bytes[0] {
        ANSWER_OK => M::decode(body).map_err(|_| KvError::UnknownCommand),
        error => Err(KvError::from_byte(error).unwrap_or(KvError::UnknownCommand)),
    }
}

fn tagged(tag: u8, message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + message.encoded_len());
    buffer.put_u8(tag);
    message
        .encode(&mut buffer)
        .expect("a growing buffer has room for any message");
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{PutResponse, ResponseHeader};

    #[test]
    fn commands_survive_the_log() {
        let commands = [
            KvCommand::Put(PutRequest {
                key: "k".into(),
                value: "v".into(),
                prev_kv: true,
                ..Default::default()
            }),
            KvCommand::DeleteRange(DeleteRangeRequest {
                key: "k".into(),
                range_end: "z".into(),
                prev_kv: false,
            }),
            KvCommand::Txn(TxnRequest::default()),
            KvCommand::Compact(CompactionRequest {
                revision: 7,
                physical: true,
            }),
        ];
        for command in commands {
            assert_eq!(KvCommand::decode(command.encode()), Ok(command));
        }
    }

    #[test]
    fn bytes_that_are_no_command_are_refused() {
        for bytes in [&b""[..], &[99, 1, 2], &[KIND_PUT, 0xff, 0xff]] {
            assert_eq!(
                KvCommand::decode(Bytes::copy_from_slice(bytes)),
                Err(KvError::UnknownCommand)
            );
        }
    }

    #[test]
    fn answers_carry_a_response_or_an_error() {
        let response = PutResponse {
            header: Some(ResponseHeader {
                revision: 5,
                ..Default::default()
            }),
            prev_kv: None,
        };
        assert_eq!(
            decode_answer(encode_answer(&Ok(response.clone()))),
            Ok(response)
        );
        let refused: Result<PutResponse, KvError> = Err(KvError::Compacted);
        assert_eq!(
            decode_answer::<PutResponse>(encode_answer(&refused)),
            Err(KvError::Compacted)
        );
        assert_eq!(
            decode_answer::<PutResponse>(Bytes::new()),
            Err(KvError::UnknownCommand)
        );
    }
}
