//! The opening handshake of a server.

use super::*;
