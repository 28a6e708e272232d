//! The identity of a data directory: which node of which cluster it belongs to, checked at every start.
//!
//! A directory that says another node or another cluster than the command line is refused: starting on it would put one node's votes
//! under another's name. The file is small text, so that a person can read it; its checksum makes damage an error instead of a
//! stranger.

use crate::dir::Dir;
use std::path::Path;

/// The file's name in a data directory.
pub(crate) const FILE: &str = "identity";
const VERSION: u32 = 1;

/// Who the data in a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; `None` for a listener that has not met its cluster yet.
    pub cluster_id: Option<u64>,
    /// The node. Below 2^53, so that it survives JSON.
    pub node_id: u64,
    /// Whether the log here is a voter's, which may hold entries that are not committed, or a listener's, which never does (S5).
    pub is_voter: bool,
    /// What the directory was made for. The command line goes on saying this, whatever the node has become since.
    pub began_as_voter: bool,
    /// Left by a voter that became a listener: one past the last entry of its log that is known committed. What follows has to go
    /// before the log is a listener's.
    pub keep_below: Option<u64>,
    /// The node's name when the directory was made.
    pub name: String,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It belongs to another cluster.
    #[error(
        "data directory {dir} belongs to cluster {found:016x}, not to {wanted:016x}: choose another --data-dir, or correct --initial-cluster and --initial-cluster-token"
    )]
    OtherCluster {
        /// The directory.
        dir: String,
        /// Its cluster.
        found: u64,
        /// The one it was started for.
        wanted: u64,
    },
    /// It belongs to another node.
    #[error(
        "data directory {dir} belongs to node {found:x}, not to {wanted:x}: choose another --data-dir, or correct --name and the peer URLs"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Its node.
        found: u64,
        /// The one it was started for.
        wanted: u64,
    },
    /// It belongs to a listener of another name.
    #[error(
        "data directory {dir} belongs to {found}, not to {wanted}: choose another --data-dir, or correct --name; two nodes must not share an id"
    )]
    OtherName {
        /// The directory.
        dir: String,
        /// Its node's name.
        found: String,
        /// The one it was started for.
        wanted: String,
    },
    /// A listener's directory was given to a voter, or a voter's to a listener.
    #[error(
        "data directory {dir} was made for a {found}, not for a {wanted}: choose another --data-dir, or start it as it was started first; a node that was promoted or demoted knows what it is"
    )]
    OtherRole {
        /// The directory.
        dir: String,
        /// What it belongs to.
        found: &'static str,
        /// What it was started as.
        wanted: &'static str,
    },
    /// The file is damaged.
    #[error(
        "identity file {file} is damaged: restore it from a backup, or remove the whole data directory and let the node join anew"
    )]
    Damaged {
        /// The file.
        file: String,
    },
    /// There is data but no identity.
    #[error(
        "data directory {dir} has a log but no identity file: restore the file, or remove the whole directory and let the node join anew"
    )]
    Missing {
        /// The directory.
        dir: String,
    },
    /// `eaves recover` was making it, and did not come to its end.
    #[error(
        "data directory {dir} is not whole, since `eaves recover` was interrupted while making it: remove all directories that it was to make and run it again"
    )]
    Unfinished {
        /// The directory.
        dir: String,
    },
    /// It cannot be read or written.
    #[error("identity file {file}: {cause}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        cause: std::io::Error,
    },
}

impl Identity {
    /// Reads the identity of `dir`; `None` if it is a new directory.
    pub fn load(dir: &Dir) -> Result<Option<Identity>, IdentityError> {
        crate::recover::check_whole_in(dir)?;
        let file = || dir.path().join(FILE).display().to_string();
        let at_file = |cause| IdentityError::Io {
            file: file(),
            cause,
        };
        match dir.read(FILE).map_err(at_file)? {
            Some(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(parse)
                .map(Some)
                .ok_or_else(|| IdentityError::Damaged { file: file() }),
            None => match dir.join("log").list().map_err(at_file)?.is_empty() {
                true => Ok(None),
                false => Err(IdentityError::Missing {
                    dir: dir.path().display().to_string(),
                }),
            },
        }
    }

    /// Whether this node made its group, or may still have to, with the others.
    pub fn is_founder(&self) -> bool {
        self.is_voter && self.began_as_voter
    }

    /// Writes it, durably.
    pub fn save(&self, dir: &Dir) -> Result<(), IdentityError> {
        dir.write(FILE, self.to_text().as_bytes())
            .map_err(|cause| IdentityError::Io {
                file: dir.path().join(FILE).display().to_string(),
                cause,
            })
    }

    /// Checks it against what the node was started for; `None` means whatever it is. The command line says what the directory was made
    /// for: what has become of it since is the directory's own business (S3, B16).
    pub fn check(
        &self,
        dir: &Path,
        starts_as_voter: bool,
        cluster_id: Option<u64>,
        node_id: Option<u64>,
    ) -> Result<(), IdentityError> {
        let dir = dir.display().to_string();
        if self.began_as_voter != starts_as_voter {
            return Err(IdentityError::OtherRole {
                dir,
                found: role_name(self.began_as_voter),
                wanted: role_name(starts_as_voter),
            });
        }
        match (self.cluster_id, cluster_id) {
            (Some(found), Some(wanted)) if found != wanted => {
                return Err(IdentityError::OtherCluster { dir, found, wanted });
            }
            _ => {}
        }
        match node_id {
            Some(wanted) if wanted != self.node_id => Err(IdentityError::OtherNode {
                dir,
                found: self.node_id,
                wanted,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that a listener, whose id nobody else knows, comes back to its own directory and not to another's.
    pub fn check_name(&self, dir: &Path, name: &str) -> Result<(), IdentityError> {
        match self.name == one_line(name) {
            true => Ok(()),
            false => Err(IdentityError::OtherName {
                dir: dir.display().to_string(),
                found: self.name.clone(),
                wanted: name.to_string(),
            }),
        }
    }

    fn to_text(&self) -> String {
        let cluster = self
            .cluster_id
            .map_or("unknown".to_string(), |id| format!("{id:016x}"));
        let mut body = format!(
            "eaves identity {VERSION}\ncluster {cluster}\nnode {:x}\nrole {}\nname {}\n",
            self.node_id,
            role_name(self.is_voter),
            one_line(&self.name)
        );
        if self.began_as_voter != self.is_voter {
            body += &format!("began as {}\n", role_name(self.began_as_voter));
        }
        if let Some(end) = self.keep_below {
            body += &format!("keep log below {end}\n");
        }
        format!("{body}checksum {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }
}

fn role_name(is_voter: bool) -> &'static str {
    if is_voter { "voter" } else { "listener" }
}

fn is_voter(role_name: &str) -> Option<bool> {
    match role_name {
        "voter" => Some(true),
        "listener" => Some(false),
        _ => None,
    }
}

/// A name as it stands in the file, whatever is in it.
fn one_line(name: &str) -> String {
    name.replace(['\n', '\r'], "?")
}

fn parse(text: &str) -> Option<Identity> {
    let (body, checksum) = text.split_at_checked(text.rfind("checksum ")?)?;
    let checksum = u32::from_str_radix(checksum.strip_prefix("checksum ")?.trim_end(), 16).ok()?;
    let mut lines = body.lines();
    let version = lines
        .next()?
        .strip_prefix("eaves identity ")?
        .parse::<u32>()
        .ok()?;
    let cluster = lines.next()?.strip_prefix("cluster ")?;
    let node_id = u64::from_str_radix(lines.next()?.strip_prefix("node ")?, 16).ok()?;
    let role = is_voter(lines.next()?.strip_prefix("role ")?)?;
    let name = lines.next()?.strip_prefix("name ")?.to_string();
    let (mut began_as_voter, mut keep_below) = (role, None);
    for line in lines {
        match line.strip_prefix("began as ") {
            Some(began) => began_as_voter = is_voter(began)?,
            None => keep_below = Some(line.strip_prefix("keep log below ")?.parse().ok()?),
        }
    }
    let cluster_id = match cluster {
        "unknown" => None,
        id => Some(u64::from_str_radix(id, 16).ok()?),
    };
    (version == VERSION && checksum == crc32c::crc32c(body.as_bytes())).then_some(Identity {
        cluster_id,
        node_id,
        is_voter: role,
        began_as_voter,
        keep_below,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_log::sim::SimDisk;
    use std::sync::Arc;

    #[test]
    fn every_flipped_byte_is_noticed() {
        let disk = SimDisk::new();
        let dir = Dir::new(Arc::new(disk.clone()), "/data");
        let identity = Identity {
            cluster_id: Some(0xfeed),
            node_id: 7,
            is_voter: false,
            began_as_voter: true,
            keep_below: Some(13),
            name: "v1".into(),
        };
        identity.save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap(), Some(identity.clone()));
        let file = dir.path().join(FILE);
        for position in 0..disk.contents(&file).len() {
            let flip = |bytes: &mut Vec<u8>| bytes[position] ^= 0x04;
            disk.edit(&file, flip);
            match Identity::load(&dir) {
                Ok(read) => assert_eq!(read, Some(identity.clone()), "byte {position}"),
                Err(error) => assert!(error.to_string().contains("is damaged"), "{error}"),
            }
            disk.edit(&file, flip);
        }
    }

    #[test]
    fn another_cluster_and_another_node_are_refused() {
        let identity = Identity {
            cluster_id: Some(1),
            node_id: 2,
            is_voter: true,
            began_as_voter: true,
            keep_below: None,
            name: "v1".into(),
        };
        let dir = Path::new("d");
        assert!(identity.check(dir, true, Some(1), Some(2)).is_ok());
        assert!(identity.check(dir, true, None, None).is_ok());
        assert!(
            identity
                .check(dir, true, Some(9), Some(2))
                .unwrap_err()
                .to_string()
                .contains("belongs to cluster")
        );
        assert!(
            identity
                .check(dir, true, Some(1), Some(9))
                .unwrap_err()
                .to_string()
                .contains("belongs to node 2")
        );
    }

    #[test]
    fn a_voters_directory_is_no_listeners() {
        let identity = Identity {
            cluster_id: Some(1),
            node_id: 2,
            is_voter: true,
            began_as_voter: true,
            keep_below: None,
            name: "v1".into(),
        };
        let error = identity
            .check(Path::new("d"), false, None, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("data directory d was made for a voter, not for a listener"),
            "{error}"
        );
    }

    #[test]
    fn another_listeners_directory_is_refused_by_name() {
        let identity = Identity {
            cluster_id: Some(1),
            node_id: 2,
            is_voter: false,
            began_as_voter: false,
            keep_below: None,
            name: "l1".into(),
        };
        assert!(identity.check_name(Path::new("d"), "l1").is_ok());
        let error = identity
            .check_name(Path::new("d"), "l2")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("data directory d belongs to l1, not to l2"),
            "{error}"
        );
    }

    #[test]
    fn data_without_identity_is_refused() {
        let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
        assert_eq!(Identity::load(&dir).unwrap(), None);
        dir.join("log").create("a segment").unwrap();
        assert!(matches!(
            Identity::load(&dir),
            Err(IdentityError::Missing { .. })
        ));
    }
}
