//! Users and roles, which do not exist in this version: authentication is off, and what would turn it
//! on says so. Clients ask AuthStatus and Authenticate on their own account; both are answered as by
//! an etcd with authentication off.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::Shared;
use super::error::{auth_not_enabled, not_supported};
use crate::door::Door;

/// The service.
pub(super) struct AuthService<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Door> AuthService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }
}

/// Methods that would need users or roles.
macro_rules! missing {
    ($($method:ident: $request:ident => $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl<D: Door> Auth for AuthService<D> {
            async fn auth_status(
                &self,
                _: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                let header = self.shared.header(self.shared.door.view().revision());
                // The revision of a store of users nobody has touched.
                let status = pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 };
                Ok(Response::new(status))
            }

            async fn authenticate(
                &self,
                _: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.shared.metrics.auth_denied.inc();
                Err(auth_not_enabled())
            }

            async fn auth_disable(
                &self,
                _: Request<pb::AuthDisableRequest>,
            ) -> Result<Response<pb::AuthDisableResponse>, Status> {
                // It is off already, and etcd calls that a success.
                let header = self.shared.header(self.shared.door.view().revision());
                Ok(Response::new(pb::AuthDisableResponse { header }))
            }

            $(
                async fn $method(
                    &self,
                    _: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    self.shared.metrics.auth_denied.inc();
                    Err(not_supported("authentication"))
                }
            )*
        }
    };
}

missing! {
    auth_enable: AuthEnableRequest => AuthEnableResponse,
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
