//! The Cluster service: lists the voters. Membership changes have their own commands, because here a new member starts as a listener.

use super::{errors::read_failed, partial::serve_partly, replica::Replica};
use crate::proto::etcdserverpb::{cluster_server::Cluster, *};
use tonic::{Request, Response, Status};

pub(crate) struct ClusterService(pub Replica);

impl ClusterService {
    /// The voters. Listeners are not members: `eaves tree` shows them.
    async fn list(&self, request: MemberListRequest) -> Result<MemberListResponse, Status> {
        if request.linearizable {
            self.0.node.read_barrier().await.map_err(read_failed)?;
        }
        let members = self.0.node.members().into_iter().map(member).collect();
        // etcd leaves the revision out of the header of membership calls.
        let header = Some(self.0.header_at(0));
        Ok(MemberListResponse { header, members })
    }
}

fn member(member: eaves::Member) -> Member {
    Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: vec![format!("http://{}", member.peer_address)],
        client_ur_ls: member.client_urls,
        is_learner: false,
    }
}

serve_partly! {
    impl Cluster for ClusterService {
        async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
            Ok(Response::new(self.list(request.into_inner()).await?))
        }
    }

    missing "eaves: a new member starts as a listener, with `eaves listen`, and `eaves promote` makes it a voter once it has caught up" {
        member_add: MemberAddRequest => MemberAddResponse,
        member_promote: MemberPromoteRequest => MemberPromoteResponse,
    }

    missing "eaves: `eaves demote` makes a voter a listener, `eaves replace` puts a listener in the place of a voter, dead or alive" {
        member_remove: MemberRemoveRequest => MemberRemoveResponse,
        member_update: MemberUpdateRequest => MemberUpdateResponse,
    }
}
