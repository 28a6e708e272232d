//! A node as a voter: a root of the tree, or the leader, who feeds nobody (`S1`, `S10`). What a node is changes only when it is
//! told so (`S3`).

use super::TreeNode;
use crate::freshness::Freshness;
use crate::ids::{NodeId, Peer};
use crate::message::{KickReason, LeaveReason, Role, Saved};
use crate::mutation::Mutation;
use crate::output::Why;
use crate::time::Instant;
use alloc::vec::Vec;
use core::time::Duration;

/// What a voter knows about its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterState {
    /// Who leads, as far as this voter knows; itself if it leads.
    pub leader: Option<NodeId>,
    /// All voters; whether this one is among them makes no difference.
    pub voters: Vec<Voter>,
}

/// A voter as another voter knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Who and where.
    pub peer: Peer,
    /// How long ago it was last heard; `None` if it never was, as followers never hear one another.
    pub heard: Option<Duration>,
}

impl TreeNode {
    /// A voter's view of its group has changed: who leads, who votes, who was heard. Becoming leader kicks all downstreams
    /// off (`S10`), each with the voters to go to, best first (`B2`).
    pub fn handle_voter_state(&mut self, _now: Instant, state: VoterState) {
        assert!(
            self.role != Role::Listener,
            "a listener was told the state of a voter"
        );
        if self.leader != state.leader {
            self.former_leader = self.leader.or(self.former_leader);
        }
        self.leader = state.leader;
        self.voters = self.ranked(state);
        if self.leader == Some(self.config.id) {
            self.role = Role::Leader;
            self.compared = true;
            if !self.config.lacks(Mutation::S10) {
                self.kick_all(KickReason::Leader);
            }
        } else {
            self.role = Role::Follower;
        }
        self.check();
    }

    /// A voter has heard its leader. Cheap; call it as often as it happens (`B8`).
    pub fn handle_leader_heard(&mut self, now: Instant) {
        assert!(
            self.role != Role::Listener,
            "a listener was told that it heard the leader"
        );
        self.fresh = Freshness::heard(now);
        // Raft compares the logs of voters.
        self.compared = true;
    }

    /// A listener becomes a voter (`B16`): leaves its upstream, keeps its downstreams, and is their root from now on.
    pub fn become_voter(&mut self, now: Instant) {
        assert!(
            self.role == Role::Listener,
            "a voter was told to become one"
        );
        self.stop_searching();
        self.new_list = None;
        if self.session.is_some() {
            self.leave(LeaveReason::BecameVoter);
        }
        self.role = Role::Follower;
        self.leader = None;
        self.former_leader = None;
        self.stand_alone(now);
        self.check();
    }

    /// A voter becomes a listener (`B16`): keeps its downstreams and looks for an upstream, knowing what `saved` says and
    /// the voters it knew. What was asked of it (`B16`) it knows itself.
    pub fn become_listener(&mut self, now: Instant, saved: Saved) {
        assert!(
            self.role != Role::Listener,
            "a listener was told to become one"
        );
        self.role = Role::Listener;
        self.saved = Saved {
            steering: core::mem::take(&mut self.saved.steering),
            ..saved
        };
        self.learn_neighbours(&[]);
        self.stand_alone(now);
        if self.knows_servers() {
            self.begin_search(now, Why::Demoted);
        }
        self.check();
    }

    /// The other voters in the order in which to send listeners to them (`B2`): first who led until now, since it has fed
    /// nobody and so has every slot free, just as many as a new leader has listeners to send away; then those most recently
    /// heard; silent ones last. The leader comes after all of them, since it takes nobody.
    fn ranked(&self, state: VoterState) -> Vec<Peer> {
        let leader = state.leader;
        let mut voters = state.voters;
        voters.retain(|voter| voter.peer.id != self.config.id);
        voters.sort_by_key(|voter| {
            let heard = voter.heard.unwrap_or(Duration::MAX);
            (
                Some(voter.peer.id) == leader,
                heard >= self.config.silent_voter,
                Some(voter.peer.id) != self.former_leader,
                heard,
            )
        });
        voters.into_iter().map(|voter| voter.peer).collect()
    }
}
