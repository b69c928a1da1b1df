//! Measures the bytes and the CPU time of compressed messages beside those of the bare library.

use std::{
    convert::Infallible,
    future::ready,
    io::{self, IoSlice},
    pin::Pin,
    process::ExitCode,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use getty::{
    Connection, Layer, Service, Transport,
    codec::{Decoder, Deflated, Encoder, LengthDelimited},
    compress::{Compressed, CompressionLayer, Level},
    service_fn,
    transport::Received,
};
use getty_benches::{cli, cpu};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush};

const ROUNDS: usize = 41;
const MESSAGES: usize = 512;

const USAGE: &str = "\
usage: compression

Measures each format with messages of several kinds, in a minute. There are no options.
";

fn main() -> ExitCode {
    cli::run("compression", USAGE, |options| {
        if let Some(option) = options.first() {
            return Err(cli::unknown(option, USAGE));
        }
        println!("| message | format | bytes sent | % | send us | receive us |");
        println!("|---|---|--:|--:|--:|--:|");
        for (name, messages) in cases() {
            for (format, make) in formats() {
                print(name, &messages, format, || make().run(&messages));
            }
        }
        println!("\n| message | library's calls | send | receive |\n|---|---|--:|--:|");
        for (name, messages) in cases() {
            compare(name, "one stream, level 1", &messages, &stream(1), || {
                Box::new(Bare::stream(1))
            });
            compare(name, "one stream, level 6", &messages, &stream(6), || {
                Box::new(Bare::stream(6))
            });
            // A shorter message is not compressed.
            if messages[0].len() >= 512 {
                compare(name, "each frame, level 1", &messages, &frames(1), || {
                    Box::new(Bare::frames(1))
                });
            }
        }
        Ok(())
    })
}

/// Returns messages of a kind. They differ as those of an application do.
fn cases() -> Vec<(&'static str, Vec<Bytes>)> {
    let json = |length: usize| (0..MESSAGES).map(|n| json(n, length)).collect::<Vec<_>>();
    vec![
        ("JSON of 100 B", json(100)),
        ("JSON of 1 KiB", json(1024)),
        ("JSON of 16 KiB", json(16 * 1024)),
        (
            "random, 1 KiB",
            (0..MESSAGES).map(|n| noise(n, 1024)).collect(),
        ),
        (
            "random, 16 KiB",
            (0..MESSAGES).map(|n| noise(n, 16 * 1024)).collect(),
        ),
    ]
}

/// Returns a list of objects with names, numbers and words, cut to a length.
fn json(seed: usize, length: usize) -> Bytes {
    const WORDS: [&str; 12] = [
        "alpha", "room", "player", "status", "ready", "hello", "north", "message", "error",
        "unknown", "session", "value",
    ];
    let mut random = Random(seed as u64 + 1);
    let mut text = String::from("[");
    while text.len() < length {
        let (id, x, y) = (
            random.next(),
            random.next() % 10_000,
            random.next() % 10_000,
        );
        let (name, word) = (random.next() as usize % 12, random.next() as usize % 12);
        text += &format!(
            "{{\"id\":{id},\"user\":\"{}{}\",\"position\":{{\"x\":{x},\"y\":{y}}},\"state\":\"{}\"}},",
            WORDS[name],
            id % 100,
            WORDS[word]
        );
    }
    text.truncate(length);
    text.into()
}

fn noise(seed: usize, length: usize) -> Bytes {
    let mut random = Random(seed as u64 + 1);
    let bytes: Vec<u8> = (0..length)
        .map(|_| random.next().to_le_bytes()[1])
        .collect();
    bytes.into()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as u32
    }
}

/// Cost of all messages.
#[derive(Clone, Copy, Debug)]
struct Cost {
    bytes: usize,
    send: u64,
    receive: u64,
}

trait Run {
    fn run(&mut self, messages: &[Bytes]) -> Cost;
}

type Make = Box<dyn Fn() -> Box<dyn Run>>;

fn stream(level: u8) -> Make {
    Box::new(move || Box::new(Stream(CompressionLayer::deflate(Level::new(level)))))
}

fn frames(level: u8) -> Make {
    Box::new(move || Box::new(Frames(Level::new(level))))
}

fn formats() -> Vec<(&'static str, Make)> {
    fn of(layer: CompressionLayer) -> Make {
        Box::new(move || Box::new(Stream(layer.clone())))
    }
    vec![
        ("`deflate(FAST)`", stream(1)),
        ("`deflate(DEFAULT)`", stream(6)),
        ("`snappy()`", of(CompressionLayer::snappy())),
        ("`zstd(0)`", of(CompressionLayer::zstd(0))),
        ("`Deflated`, `FAST`", frames(1)),
        ("`Deflated`, `DEFAULT`", frames(6)),
    ]
}

/// A compressed stream that is flushed after each message.
struct Stream(CompressionLayer);

impl Run for Stream {
    fn run(&mut self, messages: &[Bytes]) -> Cost {
        let mut cx = Context::from_waker(Waker::noop());
        let mut io = open(&self.0);
        let mut ends = Vec::new();
        let before = cpu::of_thread();
        for message in messages {
            let mut rest = &message[..];
            while !rest.is_empty() {
                let Poll::Ready(Ok(taken)) = io.poll_send(&mut cx, &[IoSlice::new(rest)]) else {
                    unreachable!("a pipe takes all")
                };
                rest = &rest[taken..];
            }
            assert!(io.poll_flush(&mut cx).is_ready());
            ends.push(io.get_ref().written.len());
        }
        let send = cpu::of_thread() - before;

        let written = io.get_ref().written.clone();
        let mut io = open(&self.0);
        let mut buf = BytesMut::with_capacity(64 * 1024);
        let (mut received, mut arrived) = (0, 0);
        let mut arrivals: Vec<_> = Vec::new();
        for end in ends {
            arrivals.push(written[arrived..end].to_vec());
            arrived = end;
        }
        io.get_ref().arrivals.borrow_mut().extend(arrivals);
        let before = cpu::of_thread();
        let all: usize = messages.iter().map(Bytes::len).sum();
        while received < all {
            match io.poll_recv(&mut cx, &mut buf, 64 * 1024) {
                Poll::Ready(Ok(Received::Data(n))) => received += n,
                Poll::Ready(Ok(Received::Control(_))) => {}
                other => unreachable!("{other:?}"),
            }
            buf.clear();
        }
        Cost {
            bytes: written.len(),
            send,
            receive: cpu::of_thread() - before,
        }
    }
}

/// Frames that are compressed alone.
struct Frames(Level);

impl Run for Frames {
    fn run(&mut self, messages: &[Bytes]) -> Cost {
        let mut codec = Deflated::new(LengthDelimited::new()).with_level(self.0);
        let mut buffer = BytesMut::with_capacity(32 << 20);
        let before = cpu::of_thread();
        for message in messages {
            codec.encode(&message[..], &mut buffer).expect("it fits");
        }
        let send = cpu::of_thread() - before;
        let bytes = buffer.len();
        let before = cpu::of_thread();
        for message in messages {
            let received = codec.decode(&mut buffer).expect("it was encoded");
            assert!(received.is_some_and(|received| received.len() == message.len()));
        }
        Cost {
            bytes,
            send,
            receive: cpu::of_thread() - before,
        }
    }
}

/// The calls of the library with room for each result.
struct Bare {
    level: i32,
    window_bits: i32,
    mem_level: i32,
    frames: bool,
}

impl Bare {
    fn stream(level: i32) -> Self {
        Self {
            level,
            window_bits: -12,
            mem_level: 5,
            frames: false,
        }
    }

    fn frames(level: i32) -> Self {
        Self {
            level,
            window_bits: -15,
            mem_level: 8,
            frames: true,
        }
    }
}

impl Run for Bare {
    fn run(&mut self, messages: &[Bytes]) -> Cost {
        let mut deflate = Deflate::new_with_config(DeflateConfig {
            level: self.level,
            window_bits: self.window_bits,
            mem_level: self.mem_level,
            ..DeflateConfig::default()
        });
        let mut room = vec![0; 64 * 1024];
        let mut sent = Vec::with_capacity(32 << 20);
        let mut ends = Vec::new();
        let flush = if self.frames {
            DeflateFlush::Finish
        } else {
            DeflateFlush::SyncFlush
        };
        let before = cpu::of_thread();
        for message in messages {
            if self.frames {
                deflate.reset();
            }
            let start = deflate.total_out();
            deflate
                .compress(message, &mut room, flush)
                .expect("it fits");
            let length = length(deflate.total_out() - start);
            sent.extend_from_slice(&room[..length]);
            ends.push(sent.len());
        }
        let send = cpu::of_thread() - before;
        let mut inflate = Inflate::new(false, 15);
        let mut at = 0;
        let before = cpu::of_thread();
        for (message, end) in messages.iter().zip(ends) {
            if self.frames {
                inflate.reset(false);
            }
            let start = inflate.total_out();
            inflate
                .decompress(&sent[at..end], &mut room, InflateFlush::NoFlush)
                .expect("it was compressed");
            assert_eq!(length(inflate.total_out() - start), message.len());
            at = end;
        }
        Cost {
            bytes: sent.len(),
            send,
            receive: cpu::of_thread() - before,
        }
    }
}

/// Converts the length of a message.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a message fits the memory")
}

/// A pipe that takes all. Each element must arrive in one read.
#[derive(Debug, Default)]
struct Pipe {
    written: Vec<u8>,
    arrivals: std::cell::RefCell<std::collections::VecDeque<Vec<u8>>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut arrivals = self.arrivals.borrow_mut();
        if let Some(piece) = arrivals.front_mut() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..n]);
            if n == piece.len() {
                arrivals.pop_front();
            } else {
                piece.drain(..n);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn open(layer: &CompressionLayer) -> Compressed<Pipe> {
    let take = service_fn(|connection: Connection<Compressed<Pipe>>| {
        ready(Ok::<_, Infallible>(connection.take_transport().0))
    });
    let pipe = Pipe {
        written: Vec::with_capacity(32 << 20),
        ..Pipe::default()
    };
    let mut opening = std::pin::pin!(layer.layer(take).call(Connection::new(pipe)));
    match opening
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(io)) => io,
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => unreachable!("the service is ready at once"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn print(name: &str, messages: &[Bytes], format: &str, mut run: impl FnMut() -> Cost) {
    let costs: Vec<_> = (0..ROUNDS / 4).map(|_| run()).collect();
    let least = |cost: fn(&Cost) -> u64| costs.iter().map(cost).min().unwrap_or(0);
    let each = |all: u64| all as f64 / messages.len() as f64;
    let plain: usize = messages.iter().map(Bytes::len).sum();
    println!(
        "| {name} | {format} | {:.0} | {:.0} | {:.1} | {:.1} |",
        each(costs[0].bytes as u64),
        100.0 * costs[0].bytes as f64 / plain as f64,
        each(least(|cost| cost.send)) / 1_000.0,
        each(least(|cost| cost.receive)) / 1_000.0,
    );
}

/// Prints the quotient of the medians of interleaved rounds.
#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn compare(
    name: &str,
    calls: &str,
    messages: &[Bytes],
    ours: &Make,
    bare: impl Fn() -> Box<dyn Run>,
) {
    let (mut send, mut receive) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (ours, bare) = (ours().run(messages), bare().run(messages));
        send.push(ours.send as f64 / bare.send as f64);
        receive.push(ours.receive as f64 / bare.receive as f64);
    }
    let median = |quotients: &mut Vec<f64>| {
        quotients.sort_by(f64::total_cmp);
        quotients[ROUNDS / 2]
    };
    let (send, receive) = (median(&mut send), median(&mut receive));
    println!("| {name} | {calls} | {send:.2} | {receive:.2} |");
}
