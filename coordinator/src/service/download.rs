//! Sending a stored vector: chunk by chunk, as HTTP/2 asks for them.
//!
//! What the page cache holds is read at once; only what has to come from the disk takes a thread that may
//! block. A thread for each of many slow readers would cost more memory than the chunks.

use crate::store::Reader;
use futures::{Stream, stream};
use proto::{
    digest::Digest,
    v1::{Chunk, ErrorCode},
};
use std::sync::Arc;
use tonic::Status;

/// The chunks of a vector from a byte on.
pub(super) fn chunks(
    digest: Digest,
    reader: Reader,
    offset: u64,
) -> impl Stream<Item = Result<Chunk, Status>> + Send + 'static {
    stream::try_unfold((Arc::new(reader), offset), move |(reader, offset)| async move {
        if offset >= reader.length() {
            return Ok(None);
        }
        let read = if let Some(chunk) = reader.chunk_at_hand(offset) {
            Ok(Some(chunk))
        } else {
            let reader = Arc::clone(&reader);
            tokio::task::spawn_blocking(move || reader.chunk(offset)).await.map_err(Into::into).flatten()
        };
        let chunk: Option<Chunk> = read
            .map_err(|error: std::io::Error| ErrorCode::Store.status(format!("vector {digest}: {error}")))?;
        Ok(chunk.map(|chunk| {
            let next = offset + chunk.data.len() as u64;
            (chunk, (reader, next))
        }))
    })
}
