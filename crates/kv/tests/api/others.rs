//! Cluster, Maintenance, Auth, what is missing, health, reflection, and the end of it all.

use crate::server::{Server, assert_status, put};
use eaves_kv::proto::{
    etcdserverpb::{
        alarm_request::AlarmAction, auth_client::AuthClient, cluster_client::ClusterClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient, *,
    },
    v3electionpb::{CampaignRequest, election_client::ElectionClient},
    v3lockpb::{LockRequest, lock_client::LockClient},
};
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn members_are_the_voters() {
    let server = Server::start().await;
    let cluster = ClusterClient::new(server.channel());
    // A voter publishes its client URLs through the log, soon after it has a leader.
    let published = async |linearizable| loop {
        let request = MemberListRequest { linearizable };
        let response = cluster
            .clone()
            .member_list(request)
            .await
            .unwrap()
            .into_inner();
        if !response.members[0].client_ur_ls.is_empty() {
            return response;
        }
        tokio::task::yield_now().await;
    };
    let response = published(true).await;
    let header = response.header.unwrap();
    assert_eq!((response.members.len(), header.revision), (1, 0));
    let member = &response.members[0];
    assert_eq!(
        (member.id, member.name.as_str(), member.is_learner),
        (header.member_id, "alone", false)
    );
    assert!(
        member.peer_ur_ls[0].starts_with("http://127.0.0.1:"),
        "{member:?}"
    );
    let local = cluster
        .clone()
        .member_list(MemberListRequest {
            linearizable: false,
        })
        .await
        .unwrap();
    assert_eq!(local.into_inner().members, response.members);
}

#[tokio::test]
async fn status_describes_the_node() {
    let server = Server::start().await;
    server.kv().put(put("a", "1")).await.unwrap();
    let mut maintenance = MaintenanceClient::new(server.channel());
    let status = maintenance
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let header = status.header.unwrap();
    assert_eq!(status.leader, header.member_id);
    assert_eq!(status.version, "3.5.21");
    assert_eq!(status.raft_term, header.raft_term);
    assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
    assert!(status.db_size > 0 && !status.is_learner && status.errors.is_empty());
}

#[tokio::test]
async fn there_are_no_alarms() {
    let server = Server::start().await;
    let mut maintenance = MaintenanceClient::new(server.channel());
    for action in [AlarmAction::Get, AlarmAction::Deactivate] {
        let request = AlarmRequest {
            action: action.into(),
            ..Default::default()
        };
        assert!(
            maintenance
                .alarm(request)
                .await
                .unwrap()
                .into_inner()
                .alarms
                .is_empty()
        );
    }
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        ..Default::default()
    };
    assert_eq!(
        maintenance.alarm(request).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test]
async fn authentication_is_off() {
    let server = Server::start().await;
    let mut auth = AuthClient::new(server.channel());
    assert!(
        !auth
            .auth_status(AuthStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .enabled
    );
    let refused = auth
        .authenticate(AuthenticateRequest::default())
        .await
        .unwrap_err();
    assert_status(
        &refused,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    let missing = auth.auth_enable(AuthEnableRequest {}).await.unwrap_err();
    assert_status(
        &missing,
        Code::Unimplemented,
        "eaves: authentication is not supported yet",
    );
}

#[tokio::test]
async fn what_is_missing_says_so() {
    let server = Server::start().await;
    let channel = server.channel();
    let lease = LeaseClient::new(channel.clone())
        .lease_grant(LeaseGrantRequest::default())
        .await
        .unwrap_err();
    assert_status(
        &lease,
        Code::Unimplemented,
        "eaves: leases are not supported yet",
    );
    let alive = tokio_stream::iter([LeaseKeepAliveRequest { id: 1 }]);
    let alive = LeaseClient::new(channel.clone())
        .lease_keep_alive(alive)
        .await
        .unwrap_err();
    assert_status(
        &alive,
        Code::Unimplemented,
        "eaves: leases are not supported yet",
    );
    let lock = LockClient::new(channel.clone())
        .lock(LockRequest::default())
        .await
        .unwrap_err();
    let election = ElectionClient::new(channel.clone())
        .campaign(CampaignRequest::default())
        .await
        .unwrap_err();
    let add = ClusterClient::new(channel.clone())
        .member_add(MemberAddRequest::default())
        .await
        .unwrap_err();
    let mut maintenance = MaintenanceClient::new(channel);
    let snapshot = maintenance.snapshot(SnapshotRequest {}).await.unwrap_err();
    let move_leader = maintenance
        .move_leader(MoveLeaderRequest::default())
        .await
        .unwrap_err();
    for status in [lock, election, add, snapshot, move_leader] {
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().starts_with("eaves: "), "{status:?}");
    }
}

#[tokio::test]
async fn unknown_services_and_methods_are_unimplemented() {
    let server = Server::start().await;
    for path in ["/nobody.Knows/This", "/etcdserverpb.KV/Nothing"] {
        let mut grpc = tonic::client::Grpc::new(server.channel());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
        let refused = grpc
            .unary(
                Request::new(RangeRequest::default()),
                path.parse().unwrap(),
                codec,
            )
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn health_answers_for_the_whole_server() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel());
    let response = health
        .check(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap();
    assert_eq!(response.into_inner().status(), ServingStatus::Serving);
    let unknown = health
        .check(HealthCheckRequest {
            service: "nobody".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(server.channel());
    let mut responses = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let response = responses
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = response else {
        panic!("a list, not {response:?}")
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for expected in [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.contains(&expected),
            "{expected} is not among {names:?}"
        );
    }
}

#[tokio::test]
async fn metadata_of_etcds_clients_is_tolerated() {
    let server = Server::start().await;
    let mut request = Request::new(put("a", "1"));
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    request
        .metadata_mut()
        .insert("client-api-version", "3.5.1".parse().unwrap());
    server.kv().put(request).await.unwrap();
}
