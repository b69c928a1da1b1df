//! `dispatch`, over an enum.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use getty::{
    BoxError, CodecLayer, ServiceBuilder, Session, SessionLayer,
    codec::{BytesMut, Decoder, Encoder, Lines},
    handler::{Attribute, NoReply, Scope, State, dispatch},
    layers::HandleErrorLayer,
};

use crate::support::talk;

enum Command {
    Login(String),
    Add(u32),
    Quit,
}

#[derive(Clone, Default)]
struct Sum(Arc<AtomicU32>);

#[derive(Clone)]
struct User(Arc<str>);

#[derive(Clone, Debug, Default)]
struct Commands(Lines);

impl Decoder for Commands {
    type Item = Command;
    type Error = BoxError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Command>, BoxError> {
        Ok(match self.0.decode(input)? {
            None => None,
            Some(line) => Some(match line.split_once(' ') {
                Some(("login", name)) => Command::Login(name.to_owned()),
                Some(("add", number)) => Command::Add(number.parse()?),
                _ => Command::Quit,
            }),
        })
    }
}

impl Encoder<String> for Commands {
    type Error = BoxError;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> Result<(), BoxError> {
        Ok(self.0.encode(line, output)?)
    }
}

fn login(name: String, session: Session<String>) -> NoReply {
    session.insert(User(name.into()));
    NoReply
}

async fn add(
    number: u32,
    State(Sum(sum)): State<Sum>,
    Attribute(User(name)): Attribute<User>,
) -> String {
    tokio::task::yield_now().await;
    format!("{name}: {}", sum.fetch_add(number, Relaxed) + number)
}

fn add_now(number: u32, State(Sum(sum)): State<Sum>) -> Vec<String> {
    vec![(sum.fetch_add(number, Relaxed) + number).to_string()]
}

fn quit(session: Session<String>) -> NoReply {
    session.close();
    NoReply
}

macro_rules! stack {
    ($messages:expr) => {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Commands::default()))
            .layer(SessionLayer::new())
            .layer(HandleErrorLayer::new(|_error| "ERR".to_owned()))
            .service($messages)
    };
}

#[tokio::test]
async fn arms_call_handlers_with_payload_session_and_state() {
    let stack = stack!(dispatch(
        Sum::default(),
        async |command, scope: Scope<_, _>| {
            match command {
                Command::Login(name) => scope.call(login, name).await,
                Command::Add(number) => scope.call(add, number).await,
                Command::Quit => scope.call(quit, ()).await,
            }
        }
    ));
    let heard = talk(
        stack,
        &["add 1", "login ada", "add 2", "add 3", "quit", "add 4"],
    )
    .await;
    assert_eq!(heard, ["ERR", "ada: 2", "ada: 5"]);
}

#[tokio::test]
async fn function_is_not_async_if_no_handler_is() {
    fn route(command: Command, scope: Scope<String, Sum>) -> getty::handler::Immediate<String> {
        assert_eq!(scope.session().transport().to_string(), "tcp");
        assert!(scope.state().0.load(Relaxed) < 10);
        match command {
            Command::Login(name) => scope.call(login, name),
            Command::Add(number) => scope.call(add_now, number),
            Command::Quit => scope.call(quit, ()),
        }
    }
    let stack = stack!(dispatch(Sum::default(), route));
    let heard = talk(stack, &["add 1", "login ada", "add 2", "quit", "add 4"]).await;
    assert_eq!(heard, ["1", "3"]);
}
