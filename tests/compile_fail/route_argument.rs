//! A type that is no argument of handlers.

use getty::{Keyed, Router};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

struct User(String);

fn say(command: Command, user: User) -> String {
    format!("{}: {}", user.0, command.name)
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
