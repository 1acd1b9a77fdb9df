//! gRPC messages with large payloads, without the copies that a general codec makes.
//!
//! On the wire this is ordinary gRPC (length-prefixed protobuf over HTTP/2). A general encoder copies a
//! payload into the message and the message into a buffer, and a general decoder gathers frames in a
//! buffer first. Here a chunk's payload goes to the socket from where it lies, as a frame of its own, and
//! what arrives as one frame is handed on as it is.

use crate::v1::{Chunk, FetchRequest, UploadRequest, upload_request};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use std::{collections::VecDeque, future::poll_fn, marker::PhantomData, pin::Pin};
use tonic::{Status, body::Body};

/// Compression flag and length, before each message.
const PREFIX_BYTES: usize = 5;
/// Number of `Chunk.data`.
const DATA: u32 = 2;
/// Number of `UploadRequest.chunk`.
const CHUNK: u32 = 2;

/// A message as it goes over the wire.
pub trait Framed {
    /// Its frames, end to end: what comes before the payload, and the payload as it is.
    fn frames(self) -> [Bytes; 2];
}

/// The message as a body takes it.
pub fn data(message: impl Framed) -> impl Iterator<Item = Frame<Bytes>> {
    message.frames().into_iter().filter(|part| !part.is_empty()).map(Frame::data)
}

impl Framed for Chunk {
    fn frames(mut self) -> [Bytes; 2] {
        let data = std::mem::take(&mut self.data);
        let inner = self.encoded_len() + data_head(&data) + data.len();
        let mut head = BytesMut::with_capacity(64);
        prefix(&mut head, inner);
        chunk_head(&self, &data, &mut head);
        [head.freeze(), data]
    }
}

impl Framed for FetchRequest {
    fn frames(self) -> [Bytes; 2] {
        whole(&self)
    }
}

impl Framed for UploadRequest {
    fn frames(self) -> [Bytes; 2] {
        let Some(upload_request::Body::Chunk(mut chunk)) = self.body else { return whole(&self) };
        let data = std::mem::take(&mut chunk.data);
        let inner = chunk.encoded_len() + data_head(&data) + data.len();
        let mut head = BytesMut::with_capacity(64);
        prefix(&mut head, 1 + encoded_len_varint(inner as u64) + inner);
        encode_key(CHUNK, WireType::LengthDelimited, &mut head);
        encode_varint(inner as u64, &mut head);
        chunk_head(&chunk, &data, &mut head);
        [head.freeze(), data]
    }
}

/// A message that has no payload.
fn whole(message: &impl Message) -> [Bytes; 2] {
    let mut whole = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    prefix(&mut whole, message.encoded_len());
    message.encode(&mut whole).expect("a buffer grows");
    [whole.freeze(), Bytes::new()]
}

fn prefix(head: &mut BytesMut, length: usize) {
    head.put_u8(0);
    head.put_u32(u32::try_from(length).expect("a chunk is far below 4 GiB"));
}

/// Bytes of key and length before the data.
fn data_head(data: &Bytes) -> usize {
    1 + encoded_len_varint(data.len() as u64)
}

/// Every field, the data last: protobuf leaves the order to the writer.
fn chunk_head(empty: &Chunk, data: &Bytes, head: &mut BytesMut) {
    empty.encode(head).expect("a buffer grows");
    encode_key(DATA, WireType::LengthDelimited, head);
    encode_varint(data.len() as u64, head);
}

/// Messages as they arrive in a body.
#[derive(Debug)]
pub struct Messages<M> {
    body: Body,
    arrived: Rope,
    /// Of the message that is arriving, once its prefix is there.
    length: Option<usize>,
    largest: usize,
    /// A response ends in trailers that say how it went; a request just ends.
    response: bool,
    ended: bool,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Messages<M> {
    /// The messages of a request, each of at most `largest` bytes.
    pub fn of_request(body: Body, largest: usize) -> Self {
        Self {
            body,
            arrived: Rope::default(),
            length: None,
            largest,
            response: false,
            ended: false,
            message: PhantomData,
        }
    }

    /// The messages of a response, each of at most `largest` bytes.
    pub fn of_response(body: Body, largest: usize) -> Self {
        Self { response: true, ..Self::of_request(body, largest) }
    }

    /// The next message; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the other side says so, the stream breaks, or what arrives is no such message.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(bytes) = self.whole()? {
                return M::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()));
            }
            if self.ended {
                return Ok(None);
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await.transpose()?;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => self.arrived.push(data),
                Some(Err(frame)) => self.end(frame.trailers_ref())?,
                None => self.end(None)?,
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Rope>, Status> {
        let length = match self.length {
            Some(length) => length,
            None if self.arrived.remaining() < PREFIX_BYTES => return Ok(None),
            None => {
                if self.arrived.get_u8() != 0 {
                    return Err(Status::unimplemented("compressed messages are not understood"));
                }
                self.arrived.get_u32() as usize
            }
        };
        if length > self.largest {
            let text = format!("a message of {length} bytes, at most {} are accepted", self.largest);
            return Err(Status::out_of_range(text));
        }
        self.length = Some(length);
        if self.arrived.remaining() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(self.arrived.take_front(length)))
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Status> {
        self.ended = true;
        let said = trailers.and_then(Status::from_header_map);
        match said {
            Some(status) if status.code() != tonic::Code::Ok => Err(status),
            None if self.response => Err(Status::unknown("the response ended without a status")),
            _ if self.length.is_some() || self.arrived.has_remaining() => {
                Err(Status::internal("the stream ended within a message"))
            }
            _ => Ok(()),
        }
    }
}

/// Byte strings end to end, as one.
#[derive(Debug, Default)]
struct Rope {
    parts: VecDeque<Bytes>,
    length: usize,
}

impl Rope {
    fn push(&mut self, part: Bytes) {
        self.length += part.len();
        if !part.is_empty() {
            self.parts.push_back(part);
        }
    }

    fn take_front(&mut self, length: usize) -> Self {
        let mut front = Self::default();
        while front.length < length {
            let Some(part) = self.parts.front_mut() else { break };
            let want = length - front.length;
            let cut = if part.len() > want { Some(part.split_to(want)) } else { self.parts.pop_front() };
            if let Some(cut) = cut {
                self.length -= cut.len();
                front.push(cut);
            }
        }
        front
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.length, "advanced past the end");
        self.take_front(count);
    }

    /// Without a copy if one part holds it all.
    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        assert!(length <= self.length, "more than there is");
        let mut front = self.take_front(length);
        if front.parts.len() > 1 {
            let mut joined = BytesMut::with_capacity(length);
            joined.extend(front.parts);
            return joined.freeze();
        }
        front.parts.pop_front().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::UploadHeader;
    use http_body_util::StreamBody;
    use proptest::prelude::*;

    fn chunk(size: usize) -> Chunk {
        Chunk { offset: 300, data: vec![7; size].into(), crc32c: 9 }
    }

    fn body(parts: Vec<Bytes>, trailers: Option<Status>) -> Body {
        let mut frames: Vec<Result<_, Status>> =
            parts.into_iter().map(|part| Ok(Frame::data(part))).collect();
        if let Some(status) = trailers {
            let mut map = HeaderMap::new();
            status.add_header(&mut map).unwrap();
            frames.push(Ok(Frame::trailers(map)));
        }
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    }

    fn all<M: Message + Default>(mut messages: Messages<M>) -> Result<Vec<M>, Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut got = Vec::new();
            while let Some(message) = messages.message().await? {
                got.push(message);
            }
            Ok(got)
        })
    }

    #[test]
    fn any_reader_of_protobuf_understands_the_frames() {
        for size in [0, 1, 127, 128, 300_000] {
            let request = UploadRequest { body: Some(upload_request::Body::Chunk(chunk(size))) };
            for (frames, wanted) in [
                (chunk(size).frames(), chunk(size).encoded_len()),
                (request.clone().frames(), request.encoded_len()),
            ] {
                let whole = frames.concat();
                // An empty payload may be written or left out.
                let length = u32::from_be_bytes(whole[1..5].try_into().unwrap()) as usize;
                assert_eq!((whole[0], length), (0, whole.len() - PREFIX_BYTES));
                assert!(size == 0 || length == wanted, "{size}");
            }
            assert_eq!(Chunk::decode(&chunk(size).frames().concat()[5..]).unwrap(), chunk(size));
            assert_eq!(UploadRequest::decode(&request.clone().frames().concat()[5..]).unwrap(), request);
        }
        let header = UploadHeader { run: "r".into(), ..UploadHeader::default() };
        let request = UploadRequest { body: Some(upload_request::Body::Header(header)) };
        assert_eq!(UploadRequest::decode(&request.clone().frames().concat()[5..]).unwrap(), request);
    }

    #[test]
    fn a_payload_that_comes_as_one_frame_is_not_copied() {
        let sent = chunk(1_000);
        let at = sent.data.as_ptr();
        let got = all(Messages::<Chunk>::of_request(body(sent.frames().to_vec(), None), 2_000)).unwrap();
        assert_eq!(got[0].data.as_ptr(), at);
    }

    #[test]
    fn the_end_is_told_apart_from_a_break() {
        let frames = || chunk(10).frames().to_vec();
        let of = |trailers| all(Messages::<Chunk>::of_response(body(frames(), trailers), 100));
        assert_eq!(of(Some(Status::ok(""))).unwrap(), [chunk(10)]);
        assert_eq!(of(Some(Status::not_found("gone"))).unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(of(None).unwrap_err().code(), tonic::Code::Unknown);
        let cut = vec![chunk(10).frames().concat()[..12].to_vec().into()];
        let error = all(Messages::<Chunk>::of_request(body(cut, None), 100)).unwrap_err();
        assert!(error.message().contains("within a message"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_arrives() {
        let prefix: Bytes = vec![0, 0, 1, 0, 0].into();
        let error = all(Messages::<Chunk>::of_request(body(vec![prefix], None), 65_535)).unwrap_err();
        assert!(error.message().contains("65536"), "{error}");
        let packed: Bytes = vec![1, 0, 0, 0, 0].into();
        let error = all(Messages::<Chunk>::of_request(body(vec![packed], None), 9)).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unimplemented);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(sizes in prop::collection::vec(0_usize..400, 1..5), cut in 1_usize..70) {
            let sent: Vec<Chunk> = sizes.into_iter().map(chunk).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|chunk| chunk.clone().frames().concat()).collect();
            let parts = bytes.chunks(cut).map(Bytes::copy_from_slice).collect();
            prop_assert_eq!(all(Messages::<Chunk>::of_request(body(parts, None), 1_000)).unwrap(), sent);
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = all(Messages::<UploadRequest>::of_request(body(vec![bytes.into()], None), 50));
        }
    }
}
