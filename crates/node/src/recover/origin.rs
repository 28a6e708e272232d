//! A note in a recovered directory that says what it was made from, so that nodes of the lost group can be told.

use crate::dir::Dir;
use eaves_log::LogId;
use std::io;

pub(super) const FILE: &str = "recovered";

/// Where a recovered group comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The lost cluster.
    pub cluster_id: u64,
    /// The last entry that was taken over.
    pub last: LogId,
}

impl Origin {
    /// The note in `dir`, if the directory was recovered and its note can be read: nothing depends on it but a text.
    pub fn load(dir: &Dir) -> Option<Origin> {
        parse(std::str::from_utf8(&dir.read(FILE).ok()??).ok()?)
    }

    pub fn save(&self, dir: &Dir) -> io::Result<()> {
        let Origin { cluster_id, last } = self;
        let text = format!(
            "eaves recovered 1\ncluster {cluster_id:016x}\nterm {}\nindex {}\n",
            last.term, last.index
        );
        dir.write(FILE, text.as_bytes())
    }
}

fn parse(text: &str) -> Option<Origin> {
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    (field("eaves recovered")? == "1").then_some(())?;
    Some(Origin {
        cluster_id: u64::from_str_radix(field("cluster")?, 16).ok()?,
        last: LogId::new(field("term")?.parse().ok()?, field("index")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_log::sim::SimDisk;
    use std::sync::Arc;

    #[test]
    fn what_was_noted_is_read() {
        let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
        assert_eq!(Origin::load(&dir), None);
        let origin = Origin {
            cluster_id: 0xfeed,
            last: LogId::new(3, 70),
        };
        origin.save(&dir).unwrap();
        assert_eq!(Origin::load(&dir), Some(origin));
        dir.write(FILE, b"something else").unwrap();
        assert_eq!(Origin::load(&dir), None);
    }
}
