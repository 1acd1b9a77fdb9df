//! The wire: generated messages and services, conversions to and from the domain, limits, and the
//! run file.
//!
//! Only this crate knows prost's types by their fields where they are checked: everything that comes
//! from a peer becomes a domain value here, once, or an error that names what was wrong.

pub mod chunk;
pub mod digest;
pub mod event;
pub mod limits;
pub mod messages;
pub mod names;
pub mod nearest;
pub mod peers;
pub mod reason;
pub mod spec;

/// Generated code of package `starling.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::too_many_lines, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("starling.v1");
}

/// Descriptors of the package, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/starling.bin"));

/// The paths of all calls of the package, as HTTP/2 names them.
///
/// # Panics
/// Never: the descriptors were written by this build.
pub fn calls() -> Vec<String> {
    let files: prost_types::FileDescriptorSet =
        prost::Message::decode(DESCRIPTORS).expect("the descriptors were encoded by the build script");
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let path = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            paths.extend(service.method.iter().map(path));
        }
    }
    paths
}

/// Version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Oldest version that it still understands.
pub const PROTOCOL_OLDEST: u32 = 1;
/// What a worker must have for runs that compress their updates.
pub const COMPRESSION: &str = "compression";
/// What a worker must have for runs in which parts of the model are its own and do not travel.
pub const PERSONAL_PARTS: &str = "personal-parts";
/// Optional features of this program.
pub const CAPABILITIES: [&str; 4] = ["resume", "federated-evaluation", COMPRESSION, PERSONAL_PARTS];
