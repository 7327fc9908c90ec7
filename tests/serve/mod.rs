//! `selfplay serve`: the real program on a free port, asked over real sockets.

mod adapters;
mod answers;
mod client;
mod guarded;
mod hostile;
mod load;
mod runs;
