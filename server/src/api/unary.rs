//! The short way of a call with one message each way: the calls that a store spends its life on.
//!
//! tonic serves every call as a stream of messages, with a buffer of 8 KiB for each direction and three
//! boxes around them. Here the message is decoded from the bytes as they came in, and the answer is one
//! piece of the right size with its trailers behind it (gRPC over HTTP/2: Length-Prefixed-Message).
//! What a client can do wrong gets the status tonic or grpc-go would give.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::error::message_too_large;

/// One byte that says whether the message is compressed, four with its length.
const PREFIX_BYTES: usize = 5;

/// Reads the one message of a call whose headers name no compression.
pub(crate) async fn read<M, B>(mut body: B, bytes_max: usize) -> Result<M, Status>
where
    M: Message + Default,
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let Some(mut data) = next_data(&mut body).await? else {
        return Err(Status::internal("Missing request message."));
    };
    if data.len() < PREFIX_BYTES {
        data = gather(data, PREFIX_BYTES, &mut body).await?;
    }
    let bytes = message_bytes(&data[..PREFIX_BYTES], bytes_max)?;
    data.advance(PREFIX_BYTES);
    if data.len() < bytes {
        data = gather(data, bytes, &mut body).await?;
    }
    let has_more =
        data.len() > bytes || !body.is_end_stream() && next_data(&mut body).await?.is_some();
    if has_more {
        return Err(Status::internal("cardinality violation: more than one request message"));
    }
    M::decode(data).map_err(|error| Status::internal(error.to_string()))
}

/// Goes on reading until there are so many bytes.
async fn gather<B>(data: Bytes, bytes: usize, body: &mut B) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut gathered = BytesMut::from(data);
    while gathered.len() < bytes {
        let Some(more) = next_data(body).await? else {
            return Err(Status::internal("Unexpected EOF decoding stream."));
        };
        gathered.put(more);
    }
    Ok(gathered.freeze())
}

/// The next bytes that are any.
async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            // Trailers mean nothing in a request.
            Err(_) => {}
        }
    }
    Ok(None)
}

fn message_bytes(mut prefix: &[u8], bytes_max: usize) -> Result<usize, Status> {
    match prefix.get_u8() {
        0 => {}
        1 => {
            return Err(Status::internal(
                "protocol error: received message with compressed-flag but no grpc-encoding was \
                 specified",
            ));
        }
        flag => {
            return Err(Status::internal(format!(
                "protocol error: received message with invalid compression flag: {flag} (valid \
                 flags are 0 and 1), while sending request"
            )));
        }
    }
    let bytes = prefix.get_u32() as usize;
    if bytes > bytes_max {
        return Err(message_too_large(bytes as u64, bytes_max as u64));
    }
    Ok(bytes)
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A page, a stream, an error.
    Body(Body),
    /// One message and that all is well.
    Message(Option<Bytes>),
    /// What comes behind it.
    Trailers,
    /// Nothing more.
    End,
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self::Body(body)
    }
}

/// The answer that holds one message.
pub(crate) fn answer<M: Message>(message: &M) -> Result<Response<Answer>, Status> {
    let bytes = message.encoded_len();
    let Ok(length) = u32::try_from(bytes) else {
        return Err(Status::resource_exhausted("Cannot return body with more than 4GB of data"));
    };
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + bytes);
    buffer.put_u8(0);
    buffer.put_u32(length);
    message.encode_raw(&mut buffer);
    let mut response = Response::new(Answer::Message(Some(buffer.freeze())));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    Ok(response)
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Body(body) => Pin::new(body).poll_frame(cx),
            Self::Message(message) => {
                let message = message.take().unwrap_or_default();
                *self = Self::Trailers;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Self::Trailers => {
                *self = Self::End;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::End => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Body(body) => body.is_end_stream(),
            Self::Message(_) | Self::Trailers => false,
            Self::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Body(body) => body.size_hint(),
            // A length known beforehand would become a header that gRPC does not have.
            Self::Message(_) | Self::Trailers | Self::End => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use proto::etcdserverpb::PutRequest;
    use tonic::Code;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    fn put() -> PutRequest {
        PutRequest { key: "key".into(), value: vec![7; 300].into(), ..PutRequest::default() }
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
        bytes.extend(message);
        bytes
    }

    /// Reads a body that comes in pieces of so many bytes.
    fn read_in(pieces: usize, bytes: &[u8]) -> Result<PutRequest, Status> {
        let frames: Vec<_> = bytes
            .chunks(pieces)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        block_on(read(StreamBody::new(futures::stream::iter(frames)), 1_000))
    }

    #[test]
    fn a_message_is_read_in_whatever_pieces_it_comes() {
        let bytes = framed(0, &put().encode_to_vec());
        for pieces in [1, 2, 4, 5, 6, 100, bytes.len() - 1, bytes.len()] {
            assert_eq!(read_in(pieces, &bytes).expect("read"), put(), "{pieces}");
        }
        let empty = read_in(1, &framed(0, b"")).expect("read");
        assert_eq!(empty, PutRequest::default());
    }

    #[test]
    fn what_is_no_single_whole_message_is_refused() {
        let bytes = framed(0, &put().encode_to_vec());
        let twice = [bytes.as_slice(), &bytes].concat();
        let cases: [(&[u8], &str); 7] = [
            (b"", "Missing request message."),
            (&bytes[..3], "Unexpected EOF decoding stream."),
            (&bytes[..100], "Unexpected EOF decoding stream."),
            (&twice, "cardinality violation: more than one request message"),
            (
                &framed(1, b"x"),
                "protocol error: received message with compressed-flag but no grpc-encoding was specified",
            ),
            (
                &framed(9, b"x"),
                "protocol error: received message with invalid compression flag: 9 (valid flags are 0 and 1), while sending request",
            ),
            (&framed(0, b"\xff"), "failed to decode Protobuf message: invalid varint"),
        ];
        for (bytes, message) in cases {
            for pieces in [7, 1_000] {
                let status = read_in(pieces, bytes).expect_err("refused");
                assert_eq!((status.code(), status.message()), (Code::Internal, message));
            }
        }
    }

    #[test]
    fn a_message_too_large_is_refused_by_its_length_alone() {
        let status = read_in(10, &framed(0, &[0; 1_001])[..10]).expect_err("refused");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (1001 vs. 1000)");
    }

    #[test]
    fn an_answer_is_one_piece_and_its_trailers() {
        let mut response = answer(&put()).expect("short");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = response.body_mut();
        assert!(!body.is_end_stream());
        let data = block_on(body.frame()).expect("data").expect("no error").into_data();
        assert_eq!(data.expect("data"), framed(0, &put().encode_to_vec()));
        let trailers = block_on(body.frame()).expect("trailers").expect("no error");
        assert_eq!(trailers.into_trailers().expect("trailers")["grpc-status"], "0");
        assert!(body.is_end_stream());
        assert!(block_on(body.frame()).is_none());
    }
}
