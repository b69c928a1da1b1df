//! Tests that a typed message allocates nothing: neither the codec nor the session.

use std::{
    fmt::Debug,
    future::ready,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, ServiceBuilder, SessionLayer,
    codec::{
        Decoder, Encoder, Json, LengthDelimited, Lines, MessagePack, Postcard, Prost,
        VarintDelimited,
    },
    layers::HandleMalformedLayer,
};
use getty_benches::{
    transport::Scripted,
    workload::{runtime, session},
};
use serde::{Deserialize, Serialize};

use crate::{allocations, beyond_short};

/// A message without heap memory.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize, Deserialize)]
struct Position {
    #[prost(int32, tag = "1")]
    x: i32,
    #[prost(double, tag = "2")]
    y: f64,
    #[prost(bool, tag = "3")]
    jumps: bool,
}

const POSITION: Position = Position {
    x: -1_234_567,
    y: 0.125,
    jumps: true,
};

pub(crate) fn allocate_nothing() {
    // Text needs an allocation to be decoded, and none to be sent.
    let text = "a\u{e4}\"\n".repeat(60);
    for name in [&*text, "short"] {
        sends("JSON in lines", Json::<_, (), _>::new(Lines::new()), name);
        let codec = Json::<_, (), _>::new(LengthDelimited::new());
        sends("JSON", codec, name);
        let codec = MessagePack::<_, (), _>::new(LengthDelimited::new());
        sends("MessagePack", codec, name);
        let codec = Postcard::<_, (), _>::new(LengthDelimited::new());
        sends("postcard", codec, name);
        let codec = Postcard::<_, (), _>::new(VarintDelimited::new());
        sends("postcard after a varint", codec, name);
    }

    macro_rules! echoes {
        ($codec:expr) => {{
            let stack = || {
                ServiceBuilder::new()
                    .layer(CodecLayer::new($codec))
                    .layer(SessionLayer::new())
                    .service_fn(|request: getty::Request<Position>| {
                        ready(Ok::<_, BoxError>(request.into_message()))
                    })
            };
            assert_eq!(echoes($codec, stack), 0, "{}", stringify!($codec));
            let stack = || {
                ServiceBuilder::new()
                    .layer(CodecLayer::new($codec.tolerant()))
                    .layer(SessionLayer::new())
                    .layer(HandleMalformedLayer::new(|_| POSITION))
                    .service_fn(|request: getty::Request<Position>| {
                        ready(Ok::<_, BoxError>(request.into_message()))
                    })
            };
            assert_eq!(echoes($codec, stack), 0, "tolerant {}", stringify!($codec));
        }};
    }
    echoes!(Json::new(Lines::new()));
    echoes!(Json::new(LengthDelimited::new()));
    echoes!(MessagePack::new(LengthDelimited::new()));
    echoes!(Postcard::new(LengthDelimited::new()));
    echoes!(Prost::new(VarintDelimited::new()));
}

/// Checks that a codec encodes `message` without an allocation.
fn sends<'a, C>(name: &str, mut codec: C, message: &'a str)
where
    C: Encoder<&'a str, Error: Debug>,
{
    let mut buffer = BytesMut::with_capacity(1024);
    let taken = allocations(|| {
        for _ in 0..100 {
            buffer.clear();
            codec.encode(message, &mut buffer).unwrap();
        }
    });
    assert_eq!(taken, 0, "{name}: {} bytes", message.len());
}

/// Returns the number of allocations of echoes, 50 in each read.
fn echoes<C, S>(mut codec: C, stack: impl Fn() -> S) -> u64
where
    C: Decoder<Item = Position> + Encoder<Position, Error: Debug>,
    S: getty::Pipeline<Scripted>,
{
    let runtime = runtime();
    let mut batch = BytesMut::new();
    for _ in 0..50 {
        codec.encode(POSITION, &mut batch).unwrap();
    }
    let batch: Bytes = batch.freeze();
    beyond_short(|batches| {
        let transport = Scripted::new(batch.clone(), batches, Arc::new(AtomicU64::new(0)));
        allocations(|| runtime.block_on(session(transport, stack())).unwrap())
    })
}
