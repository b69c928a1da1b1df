//! Text of the chat: limits, the list of commands, and checks of typed text.
//!
//! The example `cluster_chat` uses it as well.

use std::{fmt, sync::Arc};

use getty::Reply;

/// A line that is sent. It is created once and shared by all its receivers.
pub(crate) type Line = Arc<str>;

/// Room in which people begin.
pub(crate) const LOBBY: &str = "lobby";
/// Maximum name of a person or a room, in characters.
const MAX_NAME: usize = 20;
/// Maximum text that a person may send, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;
/// Maximum number of names in one line of `/who`.
const NAMES_PER_LINE: usize = 50;

/// Reply to `/help`.
pub(crate) const HELP: [&str; 8] = [
    "* what you type is sent to all others in your room",
    "* /name NAME   change your name",
    "* /join ROOM   go to a room, new or existing",
    "* /leave       go back to the lobby",
    "* /who         list the people in your room",
    "* /echo        receive your own lines, too",
    "* /quit        leave the chat",
    "* /help        show this list",
];

/// Returns a reply with a line that no person can send.
pub(crate) fn notice(text: impl fmt::Display) -> Reply<Line> {
    Reply::one(format!("* {text}").into())
}

/// Returns the lines of `/who`.
pub(crate) fn list_names(room: &str, names: &[&str]) -> Vec<Line> {
    let lines = names.chunks(NAMES_PER_LINE);
    lines
        .map(|names| format!("* in {room}: {}", names.join(", ")).into())
        .collect()
}

/// Removes control characters, which could change the terminals of other people. A tab
/// becomes a space.
pub(crate) fn without_control_characters(line: &str) -> String {
    line.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control())
        .collect()
}

/// Returns an error unless `name` consists of letters, digits, `-` and `_` only. Such a name
/// cannot imitate a notice or a line of another person.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if name.chars().count() > MAX_NAME {
        return Err(format!("more than {MAX_NAME} characters"));
    }
    match name
        .chars()
        .find(|&c| !(c.is_alphanumeric() || "-_".contains(c)))
    {
        Some(c) => Err(format!("letters, digits, - and _ only, not {c:?}")),
        None => Ok(()),
    }
}
