//! How messages of the generated services and clients become bytes: protobuf by prost, in buffers of a fitting size.
//!
//! tonic's own codec takes 8 KiB each way for every call and lets it grow by doubling. Most messages here have some hundred bytes, and
//! an idle watch stream keeps its buffers for as long as it lives: ten thousand of them, a watcher each, take 62 MiB of memory this way and
//! 134 MiB the other. Large answers are sized before they are written, so that none is copied while its buffer grows.

use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

/// The first size of a call's buffers, each way.
const BUFFER_BYTES: usize = 512;

/// As many bytes of a stream's messages are collected before they are handed to HTTP/2 (tonic's default).
const YIELD_BYTES: usize = 32 * 1024;

fn buffer_settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// The codec that the generated code asks for.
pub struct ProtobufCodec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for ProtobufCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for ProtobufCodec<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = SizedEncoder<E>;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> SizedEncoder<E> {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<D> {
        ProstDecoder::new(buffer_settings())
    }
}

/// Writes a message after making room for all of it.
pub struct SizedEncoder<E>(PhantomData<E>);

impl<E: Message> Encoder for SizedEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message
            .encode(buffer)
            .expect("a growing buffer has room for any message");
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer_settings()
    }
}
