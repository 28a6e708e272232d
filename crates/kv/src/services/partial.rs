//! Services that are served in part: what is missing says so, and never pretends.

use tokio_stream::Empty;
use tonic::Status;

/// The stream of a call that is not served.
pub(crate) type NoStream<T> = Empty<Result<T, Status>>;

/// Implements a generated service: the calls between the first braces as written there, the listed rest by an `Unimplemented` that
/// says what is missing and what to do instead.
macro_rules! serve_partly {
    (
        impl $service:ident for $type:ty { $($served:tt)* }
        $(missing $reason:literal { $($call:ident: $request:ty => $response:ty),* $(,)? })*
    ) => {
        #[tonic::async_trait]
        impl $service for $type {
            $($served)*
            $($(
                async fn $call(&self, _: tonic::Request<$request>) -> Result<tonic::Response<$response>, tonic::Status> {
                    Err(tonic::Status::unimplemented($reason))
                }
            )*)*
        }
    };
}
pub(crate) use serve_partly;

/// Services of which nothing is served yet: the path's prefix and what their callers are told.
const MISSING_SERVICES: [(&str, &str); 3] = [
    (
        "/etcdserverpb.Lease/",
        "eaves: leases are not supported yet",
    ),
    (
        "/v3lockpb.Lock/",
        "eaves: the lock service is not supported yet, it needs leases",
    ),
    (
        "/v3electionpb.Election/",
        "eaves: the election service is not supported yet, it needs leases",
    ),
];

/// Why the service that `path` belongs to is not served, if it is one of those known to be missing.
pub(crate) fn missing_service(path: &str) -> Option<Status> {
    let (_, reason) = MISSING_SERVICES
        .iter()
        .find(|(prefix, _)| path.starts_with(prefix))?;
    Some(Status::unimplemented(*reason))
}
