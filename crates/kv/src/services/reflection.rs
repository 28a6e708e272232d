//! Server reflection, so that tools like grpcurl need no .proto files; in its present and its older version, which many still speak.

use crate::proto::FILE_DESCRIPTOR_SET;
use tonic::service::Routes;
use tonic_reflection::server::Builder;

/// Adds reflection of all our services, and of those that `extra` describes, to `routes`.
///
/// # Panics
///
/// When a descriptor set does not decode: they come from build scripts, not from outside.
pub(crate) fn add(routes: Routes, extra: &[&'static [u8]]) -> Routes {
    let builder = || {
        let known = Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        extra.iter().fold(known, |builder, set| {
            builder.register_encoded_file_descriptor_set(set)
        })
    };
    let v1 = builder()
        .build_v1()
        .expect("descriptor sets made by a build script decode");
    let v1alpha = builder()
        .build_v1alpha()
        .expect("descriptor sets made by a build script decode");
    routes.add_service(v1).add_service(v1alpha)
}
