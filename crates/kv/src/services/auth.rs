//! The Auth service: authentication is off, and says so in the words clients expect of a cluster where it was never enabled.

use super::{partial::serve_partly, replica::Replica};
use crate::proto::etcdserverpb::{auth_server::Auth, *};
use tonic::{Request, Response, Status};

pub(crate) struct AuthService(pub Replica);

serve_partly! {
    impl Auth for AuthService {
        async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
            let header = Some(self.0.header());
            Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 0 }))
        }

        async fn authenticate(&self, _: Request<AuthenticateRequest>) -> Result<Response<AuthenticateResponse>, Status> {
            Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
        }
    }

    missing "eaves: authentication is not supported yet" {
        auth_enable: AuthEnableRequest => AuthEnableResponse,
        auth_disable: AuthDisableRequest => AuthDisableResponse,
        user_add: AuthUserAddRequest => AuthUserAddResponse,
        user_get: AuthUserGetRequest => AuthUserGetResponse,
        user_list: AuthUserListRequest => AuthUserListResponse,
        user_delete: AuthUserDeleteRequest => AuthUserDeleteResponse,
        user_change_password: AuthUserChangePasswordRequest => AuthUserChangePasswordResponse,
        user_grant_role: AuthUserGrantRoleRequest => AuthUserGrantRoleResponse,
        user_revoke_role: AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse,
        role_add: AuthRoleAddRequest => AuthRoleAddResponse,
        role_get: AuthRoleGetRequest => AuthRoleGetResponse,
        role_list: AuthRoleListRequest => AuthRoleListResponse,
        role_delete: AuthRoleDeleteRequest => AuthRoleDeleteResponse,
        role_grant_permission: AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse,
        role_revoke_permission: AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse,
    }
}
