//! Results of handlers.

use std::convert::Infallible;

use getty::{
    BoxError, CodecLayer, IntoReply, Reply, ServiceBuilder, SessionLayer,
    codec::Lines,
    handler::{NoReply, Rejection, handle, handle_with},
    layers::HandleErrorLayer,
};

use crate::support::{lines, talk};

/// An error that is a reply.
enum Refused {
    Empty,
    Secret,
}

impl IntoReply<String> for Refused {
    fn into_reply(self) -> Reply<String> {
        match self {
            Self::Empty => Reply::one("ERR empty".to_owned()),
            Self::Secret => Reply::one("ERR secret".to_owned()).and_close(),
        }
    }
}

#[tokio::test]
async fn replies_are_a_message_an_option_a_vec_or_a_reply() {
    let one = handle(|line: String| line);
    assert_eq!(talk(lines!(one), &["a", "b"]).await, ["a", "b"]);
    let option = handle(|line: String| (line != "a").then_some(line));
    assert_eq!(talk(lines!(option), &["a", "b"]).await, ["b"]);
    let many = handle(async |line: String| vec![line.clone(), line]);
    assert_eq!(talk(lines!(many), &["a", "b"]).await, ["a", "a", "b", "b"]);
    let reply = handle(async |line: String| Reply::one(line).and_close());
    assert_eq!(talk(lines!(reply), &["a", "b"]).await, ["a"]);
}

#[tokio::test]
async fn handler_without_a_reply_returns_no_reply() {
    let silent = handle(|_line: String| NoReply);
    assert_eq!(talk(lines!(silent), &["a"]).await, [""; 0]);
    let silent = handle(async |line: String| match line.as_str() {
        "fail" => Err(Refused::Empty),
        _ => Ok(NoReply),
    });
    assert_eq!(talk(lines!(silent), &["a", "fail"]).await, ["ERR empty"]);
}

#[tokio::test]
async fn error_that_is_a_reply_is_sent() {
    fn check(line: String) -> Result<Option<String>, Refused> {
        match line.as_str() {
            "" => Err(Refused::Empty),
            "secret" => Err(Refused::Secret),
            _ => Ok(Some(line)),
        }
    }
    let lines = ["a", "", "b", "secret", "c"];
    let heard = talk(lines!(handle(check)), &lines).await;
    assert_eq!(heard, ["a", "ERR empty", "b", "ERR secret"]);
    let heard = talk(lines!(handle(async |line: String| check(line))), &lines).await;
    assert_eq!(heard, ["a", "ERR empty", "b", "ERR secret"]);
    // a message is a reply as well
    let strings = handle(|line: String| if line == "a" { Ok(line) } else { Err(line) });
    assert_eq!(talk(lines!(strings), &["a", "b"]).await, ["a", "b"]);
}

#[tokio::test]
async fn boxed_error_fails_the_call() {
    async fn parse(line: String) -> Result<String, BoxError> {
        Ok((line.parse::<u32>()? + 1).to_string())
    }
    assert_eq!(talk(lines!(handle(parse)), &["1", "x", "2"]).await, ["2"]);
    let stack = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
        .service(handle(parse));
    let heard = talk(lines!(stack), &["1", "x", "2"]).await;
    assert_eq!(heard, ["2", "ERR invalid digit found in string", "3"]);
}

#[tokio::test]
async fn rejection_is_a_reply_or_an_error() {
    fn parse(line: String) -> Result<NoReply, Rejection<String>> {
        if line.is_empty() {
            return Err(Rejection::reply("ERR empty".to_owned()));
        }
        line.parse::<u32>()?;
        Ok(NoReply)
    }
    let heard = talk(lines!(handle(parse)), &["", "1", "x", ""]).await;
    assert_eq!(heard, ["ERR empty"]);
    let infallible = handle(|line: String| Ok::<_, Infallible>(line));
    assert_eq!(talk(lines!(infallible), &["a"]).await, ["a"]);
}

#[tokio::test]
async fn replies_may_be_of_another_type_than_the_messages() {
    fn length(line: String) -> &'static str {
        if line.len() > 3 { "long" } else { "short" }
    }
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle_with::<_, _, String, &str, _>((), length));
    assert_eq!(talk(stack, &["abc", "abcd"]).await, ["short", "long"]);
}
