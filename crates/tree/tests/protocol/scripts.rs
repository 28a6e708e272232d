//! Golden scripts: what several nodes say to each other, rule by rule. `tests/scripts/S09_capacity_is_atomic` shows `S9`.
//!
//! Renew the expected output with `UPDATE_GOLDENFILES=1 cargo test -p eaves-tree`, and commit it only if you understand
//! every line that changed.

use crate::net::{CLUSTER, Net, address};
use eaves_tree::*;
use goldenscript::Context;
use std::error::Error;
use std::time::Duration;

/// The language of the scripts. Nodes are named n1, n2, ...; a list is `n1/n2`.
#[derive(goldenscript::Command)]
enum Command {
    /// Makes voters. Example: voters n1/n2/n3 leader=n1 capacity=2 zone=a
    Voters {
        names: Nodes,
        #[arg(key)]
        leader: Option<Node>,
        #[arg(key)]
        capacity: Option<u32>,
        #[arg(key)]
        zone: Option<String>,
    },
    /// Makes a listener and gives it a list. Example: listener n4 n1/n2 capacity=2 zone=a
    Listener {
        name: Node,
        upstreams: Nodes,
        #[arg(key)]
        capacity: Option<u32>,
        #[arg(key)]
        zone: Option<String>,
        #[arg(key)]
        log: Option<Log>,
    },
    /// Makes a listener that has run before, with a list on disk. Example: restarted n4 n1
    Restarted { name: Node, upstreams: Nodes },
    /// Makes a listener that knows nobody. Example: newcomer n4
    Newcomer(Node),
    /// Lets time pass. Example: run 100
    Run { milliseconds: u64 },
    /// Draws the tree.
    Tree,
    /// Shows what a node knows about itself. Example: state n4
    State(Node),
    /// Shows how many heartbeats a node has sent since this was last asked. Example: heartbeats n4
    Heartbeats(Node),
    /// Shows what a listener knows about its upstream. Example: upstream n4
    Upstream(Node),
    /// Shows whom a listener considered when it last chose, and why each was passed over. Example: choice n4
    Choice(Node),
    /// Makes a voter leader. Example: leader n2
    Leader(Node),
    /// Nobody leads.
    NoLeader,
    /// Kills a process; the kernel closes its connections. Example: kill n2
    Kill(Node),
    /// Takes a machine away without a word. Example: vanish n2
    Vanish(Node),
    /// Starts a node again from its disk. Example: start n4
    Start(Node),
    /// Sets the delay between two nodes, in milliseconds. Example: delay n2 n4 30
    Delay(Node, Node, u64),
    /// Cuts two nodes off from each other. Example: cut n2 n4
    Cut(Node, Node),
    /// Heals all cuts.
    Heal,
    /// Gives a listener a new list. Example: list n4 n2/n3
    List { name: Node, upstreams: Nodes },
    /// A listener reads the voters from its log. Example: log_voters n4 n1/n2
    LogVoters { name: Node, voters: Nodes },
    /// Writes to a node's disk wait. Example: hold_disk n4
    HoldDisk(Node),
    /// Writes that waited go on. Example: release_disk n4
    ReleaseDisk(Node),
    /// Kicks a listener off its upstream. Example: kick n2 n4
    Kick { upstream: Node, listener: Node },
    /// A node is too busy for questions for so many milliseconds. Example: busy n2 3000
    Busy { name: Node, milliseconds: u64 },
    /// Pins a listener to an upstream, or to none. Example: pin n4 n2
    Pin { name: Node, upstream: Option<Node> },
    /// Has a listener avoid another node. Example: avoid n4 n2
    Avoid { name: Node, upstream: Node },
    /// Has a listener no longer avoid another node. Example: unavoid n4 n2
    Unavoid { name: Node, upstream: Node },
    /// Has a node hand its downstreams over and accept none. Example: drain n4
    Drain(Node),
    /// Has a node accept downstreams again. Example: undrain n4
    Undrain(Node),
    /// Shows whom a listener considered when it last looked for another place and found none. Example: look n4
    Look(Node),
    /// Makes a listener a voter. Example: promote n4
    Promote(Node),
    /// Makes a voter a listener with a list. Example: demote n2 n3
    Demote { name: Node, upstreams: Nodes },
    /// Says where a node's log ends. Example: log n2 7@1/c0ffee
    Log { name: Node, log: Log },
    /// A listener's upstream finds its log to be a prefix of its own. Example: compared n4
    Compared(Node),
    /// Sends a registration made by hand. Example: register n9 n2 cluster=1
    Register {
        listener: Node,
        upstream: Node,
        #[arg(key)]
        cluster: Option<u64>,
        #[arg(key)]
        protocol: Option<u32>,
        #[arg(key)]
        log: Option<Log>,
    },
    /// A node is sent a heartbeat on a session it does not know. Example: stray_heartbeat n4
    StrayHeartbeat(Node),
    /// A node's upstream says that it is at this path. Example: claim n4 n2/n5 detached=true
    Claim {
        listener: Node,
        path: Nodes,
        #[arg(key, optional)]
        detached: bool,
    },
    /// Asserts that the tree is as the outputs say: everybody is fed by whom it follows.
    Check,
}

struct Node(u64);

impl std::str::FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Node, String> {
        let number = text
            .strip_prefix('n')
            .and_then(|number| number.parse().ok());
        number
            .map(Node)
            .ok_or_else(|| format!("{text} is no node, write n1"))
    }
}

struct Nodes(Vec<u64>);

impl std::str::FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Nodes, String> {
        let ids: Result<Vec<u64>, String> = text
            .split('/')
            .map(|name| Ok(name.parse::<Node>()?.0))
            .collect();
        ids.map(Nodes)
    }
}

#[derive(Clone, Copy)]
struct Log(LogEnd);

impl std::str::FromStr for Log {
    type Err = String;

    fn from_str(text: &str) -> Result<Log, String> {
        let parse = || {
            let (position, chain) = text.split_once('/')?;
            let (index, term) = position.split_once('@')?;
            let position = LogPosition {
                term: term.parse().ok()?,
                index: index.parse().ok()?,
            };
            Some(Log(LogEnd {
                position,
                chain: u64::from_str_radix(chain, 16).ok()?,
            }))
        };
        parse().ok_or_else(|| format!("{text} is no end of a log, write 7@1/c0ffee"))
    }
}

struct Runner {
    net: Net,
}

fn choice(choice: Option<&Choice>) -> Vec<String> {
    let Some(choice) = choice else {
        return vec!["none yet".into()];
    };
    let considered = choice.considered.iter().map(|considered| {
        let depth = considered
            .depth
            .map_or(String::new(), |depth| format!(" depth={depth}"));
        let key = considered
            .key
            .filter(|key| key.stale || key.other_zone)
            .map_or(String::new(), |key| format!(" key=({key})"));
        format!(
            "  {}{depth}{key} {:?}",
            considered.address, considered.verdict
        )
    });
    std::iter::once(format!("because {}", choice.why))
        .chain(considered)
        .collect()
}

fn refused(result: Result<(), SteerError>) -> Option<String> {
    result.err().map(|error| format!("refused: {error}"))
}

impl Runner {
    fn new() -> Runner {
        Runner {
            net: Net::new(Duration::from_millis(5), false),
        }
    }

    fn config(id: u64, capacity: Option<u32>, zone: &Option<String>) -> Config {
        let mut config = Net::config(id);
        config.capacity = capacity.unwrap_or(config.capacity);
        config.zone = zone.as_deref().map(Zone::from);
        config
    }

    fn state(&self, id: u64) -> String {
        let Some(node) = self.net.node(id) else {
            return "down".into();
        };
        let upstream = node
            .upstream()
            .map_or("none".into(), |upstream| upstream.peer.to_string());
        let leader = node
            .leader()
            .map_or("none".into(), |leader| leader.to_string());
        let age = match node.age(self.net.now) {
            Duration::MAX => "never".into(),
            age => format!("{}ms", age.as_millis()),
        };
        format!(
            "{} path={} attached={} stale={} age={age} leader={leader} upstream={upstream} registered={}/{} learned={}",
            node.role(),
            node.path(),
            node.is_attached(),
            node.is_stale(self.net.now),
            node.registered(),
            node.config().capacity,
            node.saved()
                .learned
                .iter()
                .map(Peer::to_string)
                .collect::<Vec<_>>()
                .join(","),
        )
    }

    fn register(
        &mut self,
        listener: u64,
        upstream: u64,
        cluster: Option<u64>,
        protocol: Option<u32>,
        log: Option<Log>,
    ) {
        let register = Register {
            listener: crate::net::peer(listener),
            zone: None,
            cluster: cluster.map_or(CLUSTER, ClusterId),
            protocol: protocol.unwrap_or(PROTOCOL_VERSION),
            last_log: log.map_or(LogEnd::default(), |log| log.0),
            uncompared: false,
            free: FreePlaces::default(),
        };
        self.net.register_raw(upstream, register);
    }

    fn claim(&mut self, listener: u64, path: &[u64], attached: bool) -> Result<(), Box<dyn Error>> {
        let path = Path::try_from(path.iter().map(|&id| NodeId(id)).collect::<Vec<_>>())?;
        let node = self.net.node(listener).ok_or("it is down")?;
        let link = node.upstream().ok_or("it has no upstream")?.link;
        let heartbeat = Heartbeat {
            path,
            attached,
            stale: false,
            leader: None,
            age: Duration::ZERO,
            draining: false,
            free_depth: None,
            committed: LogPosition::default(),
        };
        self.net.with(listener, |node, now| {
            node.handle_session_message(now, link, Message::Heartbeat(heartbeat))
        });
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut lines = Vec::new();
        match command {
            Command::Voters {
                names,
                leader,
                capacity,
                zone,
            } => {
                for &id in &names.0 {
                    self.net.add_voter(Runner::config(id, *capacity, zone));
                }
                self.net.set_leader(leader.as_ref().map(|leader| leader.0));
            }
            Command::Listener {
                name,
                upstreams,
                capacity,
                zone,
                log,
            } => {
                self.net
                    .add_listener(Runner::config(name.0, *capacity, zone), Saved::default());
                if let Some(log) = log {
                    self.net.set_log(name.0, log.0);
                }
                self.net.set_list(name.0, &upstreams.0);
            }
            Command::Restarted { name, upstreams } => {
                let upstreams = upstreams.0.iter().map(|&id| address(id)).collect();
                self.net.add_listener(
                    Net::config(name.0),
                    Saved {
                        upstreams,
                        ..Saved::default()
                    },
                );
            }
            Command::Newcomer(name) => self.net.add_listener(Net::config(name.0), Saved::default()),
            Command::Run { milliseconds } => self.net.run(Duration::from_millis(*milliseconds)),
            Command::Tree => lines = self.net.tree(),
            Command::State(name) => lines.push(self.state(name.0)),
            Command::Heartbeats(name) => lines.push(self.net.take_heartbeats(name.0).to_string()),
            Command::Upstream(name) => {
                let upstream = self
                    .net
                    .node(name.0)
                    .and_then(TreeNode::upstream)
                    .ok_or("it has none")?;
                lines.push(format!(
                    "{} is at {}, heard at {}",
                    upstream.peer, upstream.committed, upstream.heard
                ));
            }
            Command::Choice(name) => {
                lines = choice(self.net.node(name.0).and_then(TreeNode::last_choice));
            }
            Command::Leader(name) => self.net.set_leader(Some(name.0)),
            Command::NoLeader => self.net.set_leader(None),
            Command::Kill(name) => self.net.kill(name.0),
            Command::Vanish(name) => self.net.vanish(name.0),
            Command::Start(name) => self.net.start(name.0),
            Command::Delay(a, b, delay) => {
                self.net.set_delay(a.0, b.0, Duration::from_millis(*delay))
            }
            Command::Cut(a, b) => self.net.cut(a.0, b.0),
            Command::Heal => self.net.heal(),
            Command::List { name, upstreams } => self.net.set_list(name.0, &upstreams.0),
            Command::LogVoters { name, voters } => {
                let voters = voters.0.iter().map(|&id| crate::net::peer(id)).collect();
                self.net
                    .with(name.0, |node, now| node.handle_voters(now, voters));
            }
            Command::HoldDisk(name) => self.net.hold_disk(name.0),
            Command::ReleaseDisk(name) => self.net.release_disk(name.0),
            Command::Kick { upstream, listener } => {
                let kicked = self
                    .net
                    .with(upstream.0, |node, now| node.kick(now, NodeId(listener.0)));
                lines.push(format!("kicked: {}", kicked.ok_or("it is down")?));
            }
            Command::Busy { name, milliseconds } => self
                .net
                .set_busy(name.0, Duration::from_millis(*milliseconds)),
            Command::Pin { name, upstream } => {
                let upstream = upstream.as_ref().map(|upstream| upstream.0);
                lines.extend(refused(self.net.pin(name.0, upstream)));
            }
            Command::Avoid { name, upstream } => {
                lines.extend(refused(self.net.avoid(name.0, upstream.0, true)));
            }
            Command::Unavoid { name, upstream } => {
                lines.extend(refused(self.net.avoid(name.0, upstream.0, false)));
            }
            Command::Drain(name) => self.net.set_draining(name.0, true),
            Command::Undrain(name) => self.net.set_draining(name.0, false),
            Command::Look(name) => {
                lines = choice(self.net.node(name.0).and_then(TreeNode::last_look));
            }
            Command::Promote(name) => self.net.promote(name.0),
            Command::Demote { name, upstreams } => self.net.demote(name.0, &upstreams.0),
            Command::Compared(name) => self.net.compare_log(name.0),
            Command::Log { name, log } => self.net.set_log(name.0, log.0),
            Command::Register {
                listener,
                upstream,
                cluster,
                protocol,
                log,
            } => {
                self.register(listener.0, upstream.0, *cluster, *protocol, *log);
            }
            Command::StrayHeartbeat(name) => {
                let state = Heartbeat {
                    path: Path::of(NodeId(99)),
                    attached: true,
                    stale: false,
                    leader: None,
                    age: Duration::ZERO,
                    draining: false,
                    free_depth: None,
                    committed: LogPosition::default(),
                };
                let outputs = self.net.with(name.0, |node, now| {
                    node.handle_session_message(now, LinkId::Up(77), Message::Heartbeat(state));
                    std::iter::from_fn(|| node.poll_output())
                        .map(|output| format!("{output:?}"))
                        .collect::<Vec<_>>()
                });
                lines.extend(outputs.ok_or("it is down")?);
            }
            Command::Claim {
                listener,
                path,
                detached,
            } => self.claim(listener.0, &path.0, !detached)?,
            Command::Check => {
                let follows: Vec<_> = self
                    .net
                    .following()
                    .iter()
                    .map(|(&listener, &upstream)| (upstream, listener))
                    .collect();
                let mut feeds: Vec<_> = self.net.feeding().iter().copied().collect();
                feeds.sort_unstable_by_key(|(_, listener)| *listener);
                if feeds != follows {
                    return Err(format!("feeding {feeds:?}, following {follows:?}").into());
                }
            }
        }
        let mut output = std::mem::take(&mut self.net.trace);
        output.append(&mut lines);
        Ok(output.into_iter().map(|line| line + "\n").collect())
    }
}

/// One test for each script, and one that no script is forgotten.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            #[allow(non_snake_case)]
            fn $name() {
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/", stringify!($name));
                goldenscript::run(&mut Runner::new(), path).unwrap();
            }
        )*

        #[test]
        fn every_script_is_run() {
            let directory = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts")).unwrap();
            let mut files: Vec<String> = directory.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            assert_eq!(files, [$(stringify!($name)),*]);
        }
    };
}

scripts! {
    B01_a_change_goes_down_at_once
    B01_a_detached_node_registers_nobody
    B01_a_loop_is_left
    B01_a_loop_is_refused
    B02_a_place_lost_at_once_costs_a_wait
    B02_backoff_while_nobody_is_there
    B02_kicked_by_a_new_leader_former_leader_first
    B02_kicked_by_a_new_leader_silent_voters_last
    B03_a_subtree_stays_together
    B03_patience_grows_with_the_distance
    B04_a_place_is_found_by_descending
    B04_full_or_free_is_told_at_once
    B05_addresses_are_learned
    B05_the_list_goes_before_what_was_learned
    B05_voters_in_the_log_begin_a_search
    B06_a_newcomer_finds_its_zone
    B06_coming_back_to_the_own_zone
    B06_own_zone_at_the_price_of_one_level
    B06_two_of_a_zone_do_not_adopt_each_other
    B07_a_better_place_in_another_tree
    B07_a_better_place_in_the_own_tree
    B07_nothing_better_asks_nobody
    B07_three_moves_an_hour
    B08_a_stale_upstream_is_left
    B08_a_voter_without_a_leader_is_stale
    B08_attached_while_the_root_was_stale
    B08_heartbeats_are_relayed_at_once
    B08_who_finds_nothing_fresher_stays
    B11_who_is_not_compared_takes_nobody_on
    B11_who_waits_too_long_makes_room
    B11_who_was_compared_in_time_keeps_its_place
    B12_a_listener_whose_log_differs_keeps_trying
    B12_strangers_are_refused
    B16_a_draining_node_hands_its_downstreams_over
    B16_a_draining_root
    B16_a_newcomer_that_is_pinned
    B16_a_pin_below_oneself_leaves_first
    B16_a_pinned_listener_goes_where_it_is_told
    B16_a_pinned_upstream_that_is_away
    B16_a_promoted_node_keeps_its_downstreams
    B16_a_stale_pinned_node_is_gone_to
    B16_an_avoided_upstream_is_kept_if_there_is_no_other
    B16_an_avoided_upstream_is_left
    B16_whom_draining_leaves_behind_is_kicked
    B16_wishes_that_contradict
    B19_a_busy_server_is_asked_again
    B19_a_late_answer_asks_nothing
    B19_a_late_answer_is_used
    B19_a_restart_with_one_server_waits
    B19_a_server_that_stays_busy_ends_the_round
    S01_a_lone_leader_feeds_nobody
    S01_the_leader_never_feeds
    S02_the_leader_keeps_no_state
    S03_a_listener_stays_one
    S04_follower_and_listener_push_alike
    S05_the_committed_position_goes_down
    S06_a_list_on_its_way_to_disk_is_waited_for
    S06_list_is_persisted_before_use
    S07_a_long_list_is_asked_four_at_a_time
    S07_a_short_list_is_asked_whole
    S08_leaders_full_and_detached_ones_are_passed_over
    S08_minimum_depth
    S08_settling_ends_for_who_is_silent
    S08_settling_lets_better_answers_arrive
    S09_capacity_is_atomic
    S09_newer_session_replaces_the_older
    S09_unknown_session_is_left
    S10_becoming_leader_kicks_all
    S11_closed_connection_counts_at_once
    S11_silent_listener_is_kicked
    S12_admin_kick
    S12_not_straight_back_to_the_kicker
    S12_the_kicker_is_better_than_nobody
    S13_silent_upstream_is_left
    S14_new_list
    S14_nobody_on_the_new_list_answers
    S14_who_is_on_the_new_list_stays
}
