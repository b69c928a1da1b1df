//! Whole sessions against models: requests and pushes in any order, with a peer that splits,
//! stalls, takes little, ends its direction or resets.

mod limits;
mod peer;
mod whole;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, Reply, Request, Service, ServiceBuilder, Session,
    SessionLayer, SessionTask,
    codec::{Lines as LinesCodec, Text},
    ws::{self, WsLayer},
};
use getty_test::Messages;
use tokio::time::sleep;
use tower::service_fn;

pub(crate) use self::{
    limits::{session_reply_limit, session_watermarks},
    whole::{session_framed, session_messages},
};
use crate::kit::Wire;

/// Maximum of a line, which no message of these targets reaches.
const MAX: usize = 64 * 1024;

fn lines() -> LinesCodec {
    LinesCodec::new().with_max_length(MAX)
}

/// Action of the handler on a request. It depends on the text of the line alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Reply,
    Yield,
    Sleep,
    None,
    Two,
    /// Pushes two messages before it replies.
    Push,
    /// Replies and closes the session.
    Close,
}

fn action(line: &str) -> Action {
    match line.bytes().next().unwrap_or_default() {
        b'y' => Action::Yield,
        b's' => Action::Sleep,
        b'n' => Action::None,
        b't' => Action::Two,
        b'p' => Action::Push,
        b'c' => Action::Close,
        _ => Action::Reply,
    }
}

fn replies(line: &str) -> Vec<String> {
    match action(line) {
        Action::None => Vec::new(),
        Action::Two => vec![format!("r{line}"), format!("R{line}")],
        _ => vec![format!("r{line}")],
    }
}

/// Record of the handler's calls.
#[derive(Debug, Default)]
struct Observed {
    /// Lines in the order of the calls.
    called: Mutex<Vec<String>>,
    /// Messages that handlers have pushed.
    pushed: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

struct Running(Arc<Observed>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// Handler that does what the text of a line requests.
fn handler(
    observed: &Arc<Observed>,
) -> impl Service<Request<String>, Response = Reply<String>, Error = BoxError, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    let observed = Arc::clone(observed);
    service_fn(move |request: Request<String>| {
        let observed = Arc::clone(&observed);
        let line = request.message().clone();
        observed.called.lock().expect("no panic").push(line.clone());
        let running = observed.running.fetch_add(1, SeqCst) + 1;
        observed.most.fetch_max(running, SeqCst);
        let running = Running(Arc::clone(&observed));
        async move {
            let _running = running;
            match action(&line) {
                Action::Yield => tokio::task::yield_now().await,
                Action::Sleep => sleep(Duration::from_millis(1)).await,
                Action::Push => {
                    for message in [format!("h{line}"), format!("h{line}")] {
                        if request.session().try_send(message.clone()).is_ok() {
                            observed.pushed.lock().expect("no panic").push(message);
                        }
                    }
                }
                _ => {}
            }
            let reply = Reply::many(replies(&line));
            Ok::<_, BoxError>(match action(&line) {
                Action::Close => reply.and_close(),
                _ => reply,
            })
        }
    })
}

/// Opens a session over a transport. The layers before the codec are optional.
macro_rules! open {
    ($io:expr, [$($outer:expr)?], $codec:expr, $layer:expr, $observed:expr) => {{
        let connector = service_fn(|io| async { Ok::<_, Infallible>(Connection::new(io)) });
        let opened = getty::connect(connector, $io, |link| {
            ServiceBuilder::new()
                $(.layer($outer))?
                .layer(CodecLayer::new($codec))
                .layer(link)
                .layer($layer)
                .service(handler($observed))
        });
        opened.await.expect("the dial cannot fail")
    }};
}

async fn open_stream(
    io: Wire,
    layer: SessionLayer,
    observed: &Arc<Observed>,
) -> (Session<String>, SessionTask) {
    open!(io, [], lines(), layer, observed)
}

async fn open_messages(
    io: Messages,
    layer: SessionLayer,
    observed: &Arc<Observed>,
) -> (Session<String>, SessionTask) {
    open!(io, [], Text::new().with_max_length(MAX), layer, observed)
}

async fn open_web_socket(
    io: Wire,
    layer: SessionLayer,
    observed: &Arc<Observed>,
) -> (Session<String>, SessionTask) {
    let web_socket = WsLayer::new().with_messages(ws::Messages::Text);
    let codec = Text::new().with_max_length(MAX);
    open!(io, [web_socket], codec, layer, observed)
}
