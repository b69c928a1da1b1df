//! Codecs of one connection: created from its handle, and changed by its handler.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::{Buf, BytesMut};
use getty::{
    BoxError, CodecLayer, ConnectionHandle, Reply, Request, ServiceBuilder, SessionLayer, net,
    serve,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::support::soon;

/// Maximum length of a line.
#[derive(Clone)]
struct MaxLength(Arc<AtomicUsize>);

/// Messages that a session sends.
enum Out {
    Text(String),
    /// From here on, text is upper case.
    Shout,
}

/// Lines whose maximum length is a shared setting, and whose case is changed by a message.
struct Texts {
    max: MaxLength,
    shouts: bool,
}

impl Texts {
    /// Creates the codec of a connection and keeps its setting in an attribute.
    fn of(handle: &ConnectionHandle) -> Self {
        let max = MaxLength(Arc::new(AtomicUsize::new(10)));
        handle.insert(max.clone());
        Self { max, shouts: false }
    }
}

impl Decoder for Texts {
    type Item = String;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<String>, BoxError> {
        let end = buf.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(buf.len()) > self.max.0.load(Relaxed) {
            return Err("the line is too long".into());
        }
        let Some(end) = end else {
            return Ok(None);
        };
        let line = String::from_utf8(buf.split_to(end).to_vec())?;
        buf.advance(1);
        Ok(Some(line))
    }
}

impl Encoder<Out> for Texts {
    type Error = BoxError;

    fn encode(&mut self, message: Out, buf: &mut BytesMut) -> Result<(), BoxError> {
        match message {
            Out::Shout => self.shouts = true,
            Out::Text(text) if self.shouts => {
                buf.extend_from_slice(format!("{}\n", text.to_uppercase()).as_bytes());
            }
            Out::Text(text) => buf.extend_from_slice(format!("{text}\n").as_bytes()),
        }
        Ok(())
    }
}

async fn handle(request: Request<String, Out>) -> Result<Reply<Out>, BoxError> {
    let text = |text: &str| Out::Text(text.to_owned());
    Ok(match request.message().as_str() {
        "LOGIN" => {
            let MaxLength(max) = request.session().get().ok_or("no setting")?;
            max.store(1_000, Relaxed);
            Reply::one(text("welcome"))
        }
        "SHOUT" => Reply::many(vec![text("shouting"), Out::Shout, text("from here")]),
        line => Reply::one(text(line)),
    })
}

macro_rules! app {
    () => {
        ServiceBuilder::new()
            .layer(CodecLayer::per_connection(Texts::of))
            .layer(SessionLayer::new())
            .service_fn(handle)
    };
}

fn split<T: AsyncRead + AsyncWrite>(
    io: T,
) -> (
    Lines<BufReader<impl AsyncRead + Unpin>>,
    impl AsyncWrite + Unpin,
) {
    let (read, write) = tokio::io::split(io);
    (BufReader::new(read).lines(), write)
}

#[tokio::test]
async fn handler_changes_the_settings_of_its_own_codec() {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    let address = address.socket_addr().unwrap();
    tokio::spawn(async move { serve(listener, app!()).await });
    let long = "x".repeat(500);

    let (mut lines, mut write) = split(TcpStream::connect(address).await.unwrap());
    write.write_all(b"LOGIN\n").await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "welcome");
    // The peer has the reply, so the new setting applies.
    write
        .write_all(format!("{long}\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), long);

    // The setting of another connection has not changed.
    let mut other = TcpStream::connect(address).await.unwrap();
    other
        .write_all(format!("{long}\n").as_bytes())
        .await
        .unwrap();
    let mut received = Vec::new();
    other.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"");
}

#[tokio::test(start_paused = true)]
async fn message_to_the_codec_takes_effect_at_its_position() {
    let (listener, connector) = net::memory(1024);
    tokio::spawn(async move { serve(listener, app!()).await });
    let io = connector.connect().await.unwrap().into_parts().0;
    let (mut lines, mut write) = split(io);
    // The requests arrive together.
    write.write_all(b"one\nSHOUT\ntwo\n").await.unwrap();
    for reply in ["one", "shouting", "FROM HERE", "TWO"] {
        assert_eq!(soon(lines.next_line()).await.unwrap().unwrap(), reply);
    }
}

#[tokio::test(start_paused = true)]
async fn codec_is_created_once_for_each_connection_from_its_handle() {
    let created = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&created);
    let app = ServiceBuilder::new()
        .layer(CodecLayer::per_connection(move |handle| {
            let number = count.fetch_add(1, Relaxed);
            handle.set_name(format!("guest-{number}"));
            Texts::of(handle)
        }))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String, Out>| {
            Ok::<_, BoxError>(Out::Text(request.session().name().to_string()))
        });
    let (listener, connector) = net::memory(1024);
    tokio::spawn(async move { serve(listener, app).await });
    for number in 0..3 {
        let io = connector.connect().await.unwrap().into_parts().0;
        let (mut lines, mut write) = split(io);
        for _ in 0..2 {
            write.write_all(b"who\n").await.unwrap();
            let name = soon(lines.next_line()).await.unwrap().unwrap();
            assert_eq!(name, format!("guest-{number}"));
        }
    }
    assert_eq!(created.load(Relaxed), 3);
}
