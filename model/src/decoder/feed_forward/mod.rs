//! The feed-forward part of a block: from the normed stream to what joins the stream. Training, scoring and sampling have
//! this one forward.

mod gated;

pub(super) use gated::Gated;
