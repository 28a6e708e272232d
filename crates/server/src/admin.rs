//! The admin service, `eaves.v1.Admin`: what the command line asks a node beyond the etcd v3 API.

mod steering;

use crate::role_change;
use eaves::{Node, NodeEvent, Role, SnapshotProgress};
use proto::admin_server::{Admin, AdminServer};
use proto::{
    AvoidRequest, ChangeRoleProgress, ChangeRoleRequest, DrainProgress, DrainRequest, Event,
    EventsRequest, KickRequest, PinRequest, SetUpstreamsRequest, StatusRequest, StatusResponse,
    SteerResponse, TreeRequest, UndrainRequest, WhatIfRequest, WhatIfResponse, WhyRequest,
    WhyResponse,
};
use std::time::Duration;
use steering::Pages;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Messages, client and server, generated from `proto/admin.proto`.
pub mod proto {
    #![allow(missing_docs)]
    tonic::include_proto!("eaves.v1");
}

/// The service's description, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/admin_descriptors.bin"));

/// How long the tree is gathered when the request does not say, and at most.
const DEFAULT_TREE_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_TREE_TIMEOUT: Duration = Duration::from_secs(30);
/// What happens within this time is one event: a move is seen in the status and told in words, in either order.
const EVENT_MOMENT: Duration = Duration::from_millis(50);
/// Events that may wait for a slow reader; then the stream waits, and what happens meanwhile comes as one.
const EVENT_QUEUE: usize = 16;

/// The service of one node.
pub fn service(node: Node) -> AdminServer<AdminService> {
    AdminServer::new(AdminService { node })
}

/// See [`service`].
pub struct AdminService {
    node: Node,
}

#[tonic::async_trait]
impl Admin for AdminService {
    type TreeStream = Pages;

    async fn tree(&self, request: Request<TreeRequest>) -> Result<Response<Pages>, Status> {
        let timeout = match request.into_inner().timeout_ms {
            0 => DEFAULT_TREE_TIMEOUT,
            milliseconds => Duration::from_millis(u64::from(milliseconds)).min(MAX_TREE_TIMEOUT),
        };
        let picture = self.node.survey(timeout).await;
        Ok(Response::new(steering::pages(picture)))
    }

    async fn why(&self, request: Request<WhyRequest>) -> Result<Response<WhyResponse>, Status> {
        let told = self.node.steer().why(&request.into_inner().node).await;
        told.map(steering::why_response)
            .map(Response::new)
            .map_err(steering::status)
    }

    async fn what_if(
        &self,
        request: Request<WhatIfRequest>,
    ) -> Result<Response<WhatIfResponse>, Status> {
        let request = request.into_inner();
        let forecast = self.node.steer().what_if_down(&request.node).await;
        forecast
            .map(steering::what_if_response)
            .map(Response::new)
            .map_err(steering::status)
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<SteerResponse>, Status> {
        let request = request.into_inner();
        steering::steered(self.node.steer().kick(&request.listener).await)
    }

    async fn set_upstreams(
        &self,
        request: Request<SetUpstreamsRequest>,
    ) -> Result<Response<SteerResponse>, Status> {
        let SetUpstreamsRequest {
            listener,
            upstreams,
        } = request.into_inner();
        let steer = self.node.steer();
        steering::steered(steer.set_upstreams(&listener, upstreams).await)
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<SteerResponse>, Status> {
        let PinRequest { listener, upstream } = request.into_inner();
        let steer = self.node.steer();
        steering::steered(steer.pin(&listener, upstream.as_deref()).await)
    }

    async fn avoid(
        &self,
        request: Request<AvoidRequest>,
    ) -> Result<Response<SteerResponse>, Status> {
        let AvoidRequest {
            listener,
            nodes,
            off,
        } = request.into_inner();
        let nodes = (!nodes.is_empty()).then_some(&nodes[..]);
        steering::steered(self.node.steer().avoid(&listener, nodes, !off).await)
    }

    type DrainStream = ReceiverStream<Result<DrainProgress, Status>>;

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<Self::DrainStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let drain = steering::drain(self.node.clone(), request.into_inner().node, sender);
        tokio::spawn(drain);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<SteerResponse>, Status> {
        steering::steered(self.node.steer().undrain(&request.into_inner().node).await)
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status_of(&self.node)))
    }

    type EventsStream = ReceiverStream<Result<Event, Status>>;

    async fn events(
        &self,
        _: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(send_events(self.node.clone(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type ChangeRoleStream = ReceiverStream<Result<ChangeRoleProgress, Status>>;

    async fn change_role(
        &self,
        request: Request<ChangeRoleRequest>,
    ) -> Result<Response<Self::ChangeRoleStream>, Status> {
        let change = role_change::wanted(request.into_inner())?;
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(role_change::run(self.node.clone(), change, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Sends what happens to the node until the reader or the node is gone.
async fn send_events(node: Node, events: mpsc::Sender<Result<Event, Status>>) {
    let mut happenings = node.events();
    let mut status = node.status();
    let mut event = Event::default();
    loop {
        event.status = Some(status_of(&node));
        if events.send(Ok(std::mem::take(&mut event))).await.is_err() {
            return;
        }
        let open = tokio::select! {
            changed = status.changed() => changed.is_ok(),
            happening = happenings.recv() => add(&mut event, happening),
            () = events.closed() => false,
        };
        if !open {
            return;
        }
        tokio::time::sleep(EVENT_MOMENT).await;
        while let Ok(happening) = happenings.try_recv() {
            add(&mut event, Ok(happening));
        }
        status.mark_unchanged();
    }
}

/// Adds a happening to an event. False when there will be no more.
fn add(event: &mut Event, happening: Result<NodeEvent, broadcast::error::RecvError>) -> bool {
    match happening {
        // The status tells it.
        Ok(NodeEvent::Role { .. }) => true,
        Ok(NodeEvent::Tree(text)) => {
            event.tree.push(text);
            true
        }
        Ok(NodeEvent::Snapshot(text) | NodeEvent::Failed(text)) => {
            event.notices.push(text);
            true
        }
        // The status is told anew, so only words were lost.
        Err(broadcast::error::RecvError::Lagged(_)) => true,
        Err(broadcast::error::RecvError::Closed) => false,
    }
}

fn status_of(node: &Node) -> StatusResponse {
    let status = node.status().borrow().clone();
    let positions = node.positions();
    let counters = node.counters();
    StatusResponse {
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        name: status.name,
        role: role(status.role).into(),
        term: status.term,
        leader: status.leader,
        committed: positions.committed,
        applied: positions.applied,
        last_index: positions.last,
        upstream: status.upstream,
        depth: status.depth,
        snapshot: node.snapshot_progress().map(snapshot),
        fed_again: counters.fed_again,
        unfed_last_us: counters.unfed_last_us,
    }
}

fn snapshot(progress: SnapshotProgress) -> proto::SnapshotProgress {
    proto::SnapshotProgress {
        received_bytes: progress.received_bytes,
        total_bytes: progress.total_bytes,
        installing: progress.installing,
    }
}

fn role(role: Role) -> proto::Role {
    match role {
        Role::Leader => proto::Role::Leader,
        Role::Follower => proto::Role::Follower,
        Role::Candidate => proto::Role::Candidate,
        Role::Listener => proto::Role::Listener,
    }
}
