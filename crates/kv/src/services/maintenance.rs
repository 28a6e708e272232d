//! The Maintenance service: what operators' tools ask of one node.

use super::{
    partial::{NoStream, serve_partly},
    replica::Replica,
    version::ETCD_SERVER_VERSION,
};
use crate::proto::etcdserverpb::{alarm_request::AlarmAction, maintenance_server::Maintenance, *};
use crate::store::KvError;
use tonic::{Request, Response, Status};

pub(crate) struct MaintenanceService(pub Replica);

impl MaintenanceService {
    /// This node's own view. A listener answers like a voter: to a client it is as good a server, not a learner that refuses calls.
    fn describe(&self) -> StatusResponse {
        let status = self.0.status.borrow().clone();
        let positions = self.0.node.positions();
        let errors = if status.leader.is_none() {
            vec![KvError::NoLeader.to_string()]
        } else {
            vec![]
        };
        StatusResponse {
            header: Some(self.0.header()),
            version: ETCD_SERVER_VERSION.into(),
            db_size: self.0.store.db_size_bytes() as i64,
            db_size_in_use: self.0.store.db_size_in_use_bytes() as i64,
            leader: status.leader.unwrap_or_default(),
            raft_index: positions.committed,
            raft_term: status.term,
            raft_applied_index: positions.applied,
            errors,
            ..Default::default()
        }
    }

    /// There are no alarms to list or to disarm, and nothing that would heed one.
    fn alarm(&self, request: &AlarmRequest) -> Result<AlarmResponse, Status> {
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get | AlarmAction::Deactivate) => Ok(AlarmResponse {
                header: Some(self.0.header()),
                alarms: vec![],
            }),
            Ok(AlarmAction::Activate) => {
                Err(Status::unimplemented("eaves: alarms cannot be raised yet"))
            }
            Err(_) => Err(Status::invalid_argument(format!(
                "eaves: unknown alarm action {}",
                request.action
            ))),
        }
    }
}

serve_partly! {
    impl Maintenance for MaintenanceService {
        type SnapshotStream = NoStream<SnapshotResponse>;

        async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
            Ok(Response::new(self.describe()))
        }

        async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
            MaintenanceService::alarm(self, request.get_ref()).map(Response::new)
        }
    }

    missing "eaves: defragmentation is not needed: space that compaction frees is used again" {
        defragment: DefragmentRequest => DefragmentResponse,
    }

    missing "eaves: hashes of the whole state are not supported yet" {
        hash: HashRequest => HashResponse,
        hash_kv: HashKvRequest => HashKvResponse,
    }

    missing "eaves: snapshots through the etcd API are not supported yet: start a listener to copy the state" {
        snapshot: SnapshotRequest => Self::SnapshotStream,
    }

    missing "eaves: moving the leader is not supported yet" {
        move_leader: MoveLeaderRequest => MoveLeaderResponse,
    }

    missing "eaves: downgrades are not supported" {
        downgrade: DowngradeRequest => DowngradeResponse,
    }
}
