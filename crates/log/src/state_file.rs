//! The small state beside the entries: what was purged, and the hard state. One file, always replaced as a whole, so it is never torn.
//!
//! ```text
//!  0          8         12       16      20             28              36      40
//! ┌──────────┬─────────┬────────┬───────┬──────────────┬───────────────┬───────┬────────────┐
//! │ EAVESLST │ version │ crc32c │ flags │ purged: term │ purged: index │ bytes │ hard state │
//! └──────────┴─────────┴────────┴───────┴──────────────┴───────────────┴───────┴────────────┘
//! ```

use crate::disk::{read_whole, write_durably};
use crate::error::DiskError;
use crate::segment::FORMAT_VERSION;
use crate::{Damage, Disk, LogId, MAX_INDEX, OpenError};
use bytes::{Buf, BufMut, Bytes};
use std::io;
use std::path::Path;

const FILE: &str = "state";
const MAGIC: &[u8; 8] = b"EAVESLST";
const HEADER_BYTES: usize = 40;
const CHECKSUM_END: usize = 16;
const FLAG_PURGED: u32 = 1;
const FLAG_HARD_STATE: u32 = 2;

/// What the state file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SmallState {
    pub purged: Option<LogId>,
    pub hard_state: Option<Bytes>,
}

/// Replaces the state file of `dir`, durably.
pub(crate) fn save(disk: &dyn Disk, dir: &Path, state: &SmallState) -> Result<(), DiskError> {
    let path = dir.join(FILE);
    write_durably(disk, &path, &encode(state)).map_err(DiskError::at("replace", &path))
}

/// Reads the state file of `dir`; `None` if nothing was ever saved.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<SmallState>, OpenError> {
    let path = dir.join(FILE);
    let bytes = match read_whole(disk, &path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::at("read", &path)(error).into()),
    };
    let damaged = |what: &str| Damage {
        file: path.clone(),
        offset: 0,
        index: None,
        what: what.to_string(),
    };
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return Err(OpenError::Damaged(damaged("it is not a state file")));
    }
    let (version, checksum) = ((&bytes[8..12]).get_u32_le(), (&bytes[12..16]).get_u32_le());
    if crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[CHECKSUM_END..]) != checksum {
        return Err(OpenError::Damaged(damaged(
            "it does not match its checksum",
        )));
    }
    if version != FORMAT_VERSION {
        return Err(OpenError::Version {
            file: path,
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let mut fields = bytes.slice(CHECKSUM_END..);
    let flags = fields.get_u32_le();
    let purged = LogId {
        term: fields.get_u64_le(),
        index: fields.get_u64_le(),
    };
    if purged.index > MAX_INDEX {
        return Err(OpenError::Damaged(damaged("it names an impossible entry")));
    }
    if fields.get_u32_le() as usize != fields.len() {
        return Err(OpenError::Damaged(damaged(
            "it has another length than it says",
        )));
    }
    Ok(Some(SmallState {
        purged: (flags & FLAG_PURGED != 0).then_some(purged),
        hard_state: (flags & FLAG_HARD_STATE != 0).then_some(fields),
    }))
}

fn encode(state: &SmallState) -> Vec<u8> {
    let hard_state = state.hard_state.clone().unwrap_or_default();
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + hard_state.len());
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(FORMAT_VERSION);
    bytes.put_u32_le(0);
    bytes.put_u32_le(
        flag(state.purged.is_some(), FLAG_PURGED)
            | flag(state.hard_state.is_some(), FLAG_HARD_STATE),
    );
    bytes.put_u64_le(state.purged.map_or(0, |id| id.term));
    bytes.put_u64_le(state.purged.map_or(0, |id| id.index));
    bytes.put_u32_le(hard_state.len() as u32);
    bytes.put_slice(&hard_state);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[CHECKSUM_END..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
