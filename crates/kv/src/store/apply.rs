//! Applying committed commands: memory only, a few microseconds each.
//!
//! The state's write lock is held for one call, that is for one batch of commands. Reads of old values that a command asks for (`prev_kv`,
//! a comparison of values) may go to the state file; nothing is ever written there from here.

use super::command::{KvCommand, encode_answer};
use super::compaction;
use super::error::KvError;
use super::overlay::Checkpoint;
use super::range::{ReadError, State};
use super::table::StateFileError;
use super::txn::WriteTxn;
use bytes::Bytes;
use eaves::{Command, Position};
use prost::Message;

impl State {
    /// Applies a batch and notes the position after it. An error means that this node's state file failed: the state is unusable then.
    pub fn apply(
        &mut self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> Result<Vec<Bytes>, StateFileError> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            answers.push(self.apply_one(command.data.clone())?);
        }
        self.overlay.checkpoint(Checkpoint {
            index,
            position,
            revision: self.revision,
            compact_revision: self.compact_revision,
        });
        Ok(answers)
    }

    fn apply_one(&mut self, data: Bytes) -> Result<Bytes, StateFileError> {
        match KvCommand::decode(data) {
            Ok(KvCommand::Put(request)) => self.write(|txn| txn.put(&request)),
            Ok(KvCommand::DeleteRange(request)) => {
                self.write(|txn| Ok(txn.delete_range(&request)?))
            }
            Ok(KvCommand::Txn(request)) => self.write(|txn| txn.txn(&request)),
            Ok(KvCommand::Compact(request)) => {
                Ok(encode_answer(&compaction::compact(self, request.revision)))
            }
            Err(error) => Ok(encode_answer::<()>(&Err(error))),
        }
    }

    fn write<M: Message>(
        &mut self,
        execute: impl FnOnce(&mut WriteTxn<'_>) -> Result<M, ReadError>,
    ) -> Result<Bytes, StateFileError> {
        let mut txn = WriteTxn::begin(self);
        let answer: Result<M, KvError> = match execute(&mut txn) {
            Ok(response) => Ok(response),
            Err(ReadError::Refused(error)) => Err(error),
            Err(ReadError::Broken(error)) => return Err(error),
        };
        txn.end();
        Ok(encode_answer(&answer))
    }
}
