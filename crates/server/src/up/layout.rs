//! Which nodes `eaves up` runs, on which ports, and how a second start fits the first.
//!
//! Nodes have numbers in the order v1, v2, ..., l1, l2, ...; node `i` has the ports `base + 10 * i` for clients and the one above for
//! peers. So `--base-port 2379` gives v1 etcd's own ports, and more listeners never move a port. The layout is kept in the data
//! directory, because the group remembers its voters' addresses: what a later start may change is how many listeners there are and how
//! many each node feeds.

use crate::address::Address;
use crate::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};

/// A first start without flags makes these.
const DEFAULT_VOTERS: u16 = 3;
const DEFAULT_LISTENERS: u16 = 6;
const DEFAULT_CAPACITY: u32 = 2;
const DEFAULT_BASE_PORT: u16 = 2379;

/// Larger groups only commit more slowly; seven voters bear the loss of three.
const MAX_VOTERS: u16 = 7;
/// One machine is no place for more processes than this.
const MAX_LISTENERS: u16 = 200;
/// From one node's client port to the next one's.
const PORT_STRIDE: u16 = 10;
/// The version of the file format.
const FORMAT: u32 = 1;

/// What the flags of `eaves up` ask for; `None` where there was no flag.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub voters: Option<u16>,
    pub listeners: Option<u16>,
    pub capacity: Option<u32>,
    pub base_port: Option<u16>,
}

/// The nodes of one `eaves up`, as kept in its data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    format: u32,
    pub voters: u16,
    pub listeners: u16,
    pub capacity: u32,
    pub base_port: u16,
}

/// One node to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    pub name: String,
    pub kind: Kind,
    pub client: Address,
    pub peer: Address,
}

/// What a node starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Voter,
    Listener,
}

impl Layout {
    /// The layout of a first start.
    pub fn first(wanted: &Wanted) -> Outcome<Layout> {
        let layout = Layout {
            format: FORMAT,
            voters: wanted.voters.unwrap_or(DEFAULT_VOTERS),
            listeners: wanted.listeners.unwrap_or(DEFAULT_LISTENERS),
            capacity: wanted.capacity.unwrap_or(DEFAULT_CAPACITY),
            base_port: wanted.base_port.unwrap_or(DEFAULT_BASE_PORT),
        };
        layout.check()?;
        Ok(layout)
    }

    /// The layout of a later start in the same data directory.
    pub fn resumed(self, wanted: &Wanted) -> Outcome<Layout> {
        let fixed = |flag: &str, was: u16, now: Option<u16>| match now {
            Some(now) if now != was => Err(Failure::usage(format!(
                "{flag} {now}: this data directory holds a group made with {flag} {was}; leave the flag out, or give another --data-dir"
            ))),
            _ => Ok(()),
        };
        fixed("--voters", self.voters, wanted.voters)?;
        fixed("--base-port", self.base_port, wanted.base_port)?;
        let layout = Layout {
            listeners: wanted.listeners.unwrap_or(self.listeners),
            capacity: wanted.capacity.unwrap_or(self.capacity),
            ..self
        };
        layout.check()?;
        Ok(layout)
    }

    /// Reads what [`Layout::to_json`] wrote. `file` is named in complaints.
    pub fn from_json(file: &str, text: &str) -> Outcome<Layout> {
        let unreadable = |cause: String| {
            Failure::failed(format!(
                "{file}: {cause}; give another --data-dir, or remove this one to begin anew"
            ))
        };
        let layout: Layout =
            serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if layout.format != FORMAT {
            return Err(unreadable(format!(
                "has format {}, and this eaves knows {FORMAT}",
                layout.format
            )));
        }
        layout
            .check()
            .map_err(|failure| unreadable(failure.to_string()))?;
        Ok(layout)
    }

    /// The text kept in the data directory.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a layout has a JSON form") + "\n"
    }

    /// All nodes, voters first.
    pub fn nodes(&self) -> Vec<PlannedNode> {
        let voters = (1..=self.voters).map(|number| (format!("v{number}"), Kind::Voter));
        let listeners = (1..=self.listeners).map(|number| (format!("l{number}"), Kind::Listener));
        voters
            .chain(listeners)
            .zip(0..)
            .map(|((name, kind), number)| {
                let port = self.base_port + PORT_STRIDE * number;
                let address = |port| Address::new("127.0.0.1", port);
                PlannedNode {
                    name,
                    kind,
                    client: address(port),
                    peer: address(port + 1),
                }
            })
            .collect()
    }

    fn check(&self) -> Outcome {
        let wrong = |text: String| Err(Failure::usage(text));
        if !(1..=MAX_VOTERS).contains(&self.voters) {
            return wrong(format!(
                "--voters: {} makes no group; give 1 to {MAX_VOTERS}, best an odd number",
                self.voters
            ));
        }
        if self.listeners > MAX_LISTENERS {
            return wrong(format!(
                "--listeners: one machine runs at most {MAX_LISTENERS}; give fewer"
            ));
        }
        if self.listeners > 0 && self.voters == 1 {
            return wrong(
                "--voters 1: only followers feed listeners, and a group of one has none; give --voters 3 or --listeners 0".into(),
            );
        }
        if self.listeners > 0 && self.capacity == 0 {
            return wrong(
                "--capacity 0: nobody may feed a listener then; give at least 1, or --listeners 0"
                    .into(),
            );
        }
        let last_port = u32::from(self.base_port)
            + u32::from(PORT_STRIDE) * u32::from(self.voters + self.listeners - 1)
            + 1;
        if self.base_port == 0 || last_port > u32::from(u16::MAX) {
            return wrong(format!(
                "--base-port: {} leaves no room for the ports of all nodes; give a lower one above 0",
                self.base_port
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Layout {
        Layout::first(&Wanted::default()).unwrap()
    }

    #[test]
    fn the_first_voter_has_the_ports_of_etcd() {
        let nodes = first().nodes();
        assert_eq!(nodes.len(), 9);
        assert_eq!(
            (nodes[0].name.as_str(), nodes[0].client.to_string()),
            ("v1", "127.0.0.1:2379".into())
        );
        assert_eq!(nodes[0].peer.to_string(), "127.0.0.1:2380");
        assert_eq!(
            (nodes[3].name.as_str(), nodes[3].client.to_string()),
            ("l1", "127.0.0.1:2409".into())
        );
        assert_eq!(
            (nodes[3].kind, nodes[2].kind),
            (Kind::Listener, Kind::Voter)
        );
    }

    #[test]
    fn more_listeners_move_no_port() {
        let few = first().nodes();
        let many = first()
            .resumed(&Wanted {
                listeners: Some(20),
                ..Default::default()
            })
            .unwrap()
            .nodes();
        assert_eq!(few[..], many[..few.len()]);
    }

    #[test]
    fn what_is_kept_can_be_read_again() {
        let layout = first();
        assert_eq!(Layout::from_json("f", &layout.to_json()).unwrap(), layout);
    }

    #[test]
    fn a_damaged_or_newer_file_is_refused_by_name() {
        let newer = first().to_json().replace("\"format\": 1", "\"format\": 2");
        let impossible = first().to_json().replace("\"voters\": 3", "\"voters\": 0");
        for text in ["", "{}", &newer, &impossible] {
            let error = Layout::from_json("eaves-up.json", text)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("eaves-up.json: ") && error.contains("--data-dir"),
                "{error}"
            );
        }
    }

    #[test]
    fn voters_and_ports_stay_as_they_were() {
        for wanted in [
            Wanted {
                voters: Some(5),
                ..Default::default()
            },
            Wanted {
                base_port: Some(4000),
                ..Default::default()
            },
        ] {
            let error = first().resumed(&wanted).unwrap_err().to_string();
            assert!(error.contains("--data-dir"), "{error}");
        }
        let same = Wanted {
            voters: Some(3),
            base_port: Some(2379),
            ..Default::default()
        };
        assert_eq!(first().resumed(&same).unwrap(), first());
    }

    #[test]
    fn impossible_layouts_are_refused() {
        for (wanted, flag) in [
            (
                Wanted {
                    voters: Some(0),
                    ..Default::default()
                },
                "--voters",
            ),
            (
                Wanted {
                    voters: Some(8),
                    ..Default::default()
                },
                "--voters",
            ),
            (
                Wanted {
                    voters: Some(1),
                    ..Default::default()
                },
                "--voters",
            ),
            (
                Wanted {
                    listeners: Some(201),
                    ..Default::default()
                },
                "--listeners",
            ),
            (
                Wanted {
                    capacity: Some(0),
                    ..Default::default()
                },
                "--capacity",
            ),
            (
                Wanted {
                    base_port: Some(0),
                    ..Default::default()
                },
                "--base-port",
            ),
            (
                Wanted {
                    base_port: Some(65_500),
                    ..Default::default()
                },
                "--base-port",
            ),
        ] {
            let error = Layout::first(&wanted).unwrap_err();
            assert!(
                matches!(&error, Failure::Usage(text) if text.starts_with(flag)),
                "{error}"
            );
        }
        let alone = Wanted {
            voters: Some(1),
            listeners: Some(0),
            ..Default::default()
        };
        assert_eq!(Layout::first(&alone).unwrap().nodes().len(), 1);
    }
}
