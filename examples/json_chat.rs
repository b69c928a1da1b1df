//! A chat in JSON: people log in with a name and talk to all others.
//!
//! ```text
//! cargo run --features json_chat --example json_chat
//! nc 127.0.0.1 7010                   # in one terminal per person; then type:
//! {"type":"say","data":"hello"}
//! {"type":"login","data":"ada"}
//! {"type":"say","data":"hello"}
//! ```
//!
//! Each line is one message. You see these replies:
//!
//! ```text
//! {"type":"error","data":"log in first"}
//! {"type":"welcome","data":"ada"}
//! {"type":"said","data":{"by":"ada","text":"hello"}}
//! ```
//!
//! The login is a type: a handler that takes a `Member` is not called without one. An error is
//! a reply, and so is the reply to a line that is not in JSON.
//!
//! `json_chat ADDRESS` listens on another address. Ctrl-c ends it.

mod report;

use getty::{
    CodecLayer, NoReply, Rejection, Reply, ServiceBuilder, Session, SessionLayer, State, Topics,
    codec::{Json, Lines},
    handler::{FromSession, dispatch},
    layers::HandleMalformedLayer,
    net::TcpListener,
};
use serde::{Deserialize, Serialize};

use self::report::Report;

/// A message from a client.
#[derive(Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Command {
    Login(String),
    Say(String),
    Quit,
}

/// A message from the server.
#[derive(Clone, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Event {
    Welcome(String),
    Said { by: String, text: String },
    Error(String),
}

/// The name of a person who has logged in.
#[derive(Clone)]
struct Member(String);

impl<S> FromSession<Event, S> for Member {
    fn from_session(session: &Session<Event>, _: &S) -> Result<Self, Rejection<Event>> {
        let member = session.get::<Self>();
        member.ok_or_else(|| Rejection::reply(Event::Error("log in first".into())))
    }
}

/// The topic `None` has all members. The topic of a name has the person with this name.
type Chat = Topics<Option<String>, Event>;

/// All members receive names and texts. Both together fit into a line even if JSON escapes each
/// byte in six. Codecs refuse a longer line.
const MAX_NAME: usize = 64;
const MAX_TEXT: usize = 4096;

type Replies<T> = Result<T, Event>;

fn too_long<T>(what: &str) -> Replies<T> {
    Err(Event::Error(format!("the {what} is too long")))
}

// It is async because a login usually awaits a database. The other handlers need no `async`.
async fn login(name: String, session: Session<Event>, State(chat): State<Chat>) -> Replies<Event> {
    if name.len() > MAX_NAME {
        return too_long("name");
    }
    if session.get::<Member>().is_some() {
        return Err(Event::Error("you have logged in".into()));
    }
    let own = Some(name.clone());
    chat.join(own.clone(), &session);
    if chat.count(&own) > 1 {
        chat.leave(&own, &session);
        return Err(Event::Error(format!("the name {name} is taken")));
    }
    chat.join(None, &session);
    session.insert(Member(name.clone()));
    Ok(Event::Welcome(name))
}

fn say(text: String, Member(by): Member, State(chat): State<Chat>) -> Replies<NoReply> {
    if text.len() > MAX_TEXT {
        return too_long("text");
    }
    chat.broadcast(&None, Event::Said { by, text });
    Ok(NoReply)
}

#[tokio::main]
async fn main() -> Result<(), Report> {
    let handler = dispatch(Chat::new(), async |command, scope| match command {
        Command::Login(name) => scope.call(login, name).await,
        Command::Say(text) => scope.call(say, text).await,
        Command::Quit => scope.call(|()| Reply::close(), ()).await,
    });
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Json::new(Lines::new()).tolerant()))
        .layer(SessionLayer::new())
        .layer(HandleMalformedLayer::new(|error| {
            Event::Error(error.to_string())
        }))
        .service(handler);

    let listener = TcpListener::bind(report::address("127.0.0.1:7010")?).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}
