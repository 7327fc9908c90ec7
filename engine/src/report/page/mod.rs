//! `selfplay report`: runs as one page of HTML that needs nothing else.
//!
//! ```text
//! model     what a page tells, as plain data        gather/   from folders to that
//! charts/   SVG: lines, histograms, dots, bars      html/     the page around them: text, tables, styles, scripts
//! live      a page that follows a run in work       scale_chart   efficiency over GPUs, a file of its own
//! ```
//!
//! Whatever comes from a file (prompts, answers, settings, paths) is escaped in `escape.rs` and nowhere else; a policy in the page
//! (`Content-Security-Policy`) lets its own script run and no other, and opens no connection.

mod charts;
mod escape;
mod gather;
mod html;
pub(crate) mod live;
mod model;
mod scale_chart;

pub(crate) use gather::{ReportedFolder, gather};
pub(crate) use html::{GENERATOR, render};
pub(crate) use scale_chart::{EFFICIENCY_TITLE, ScaleSeries, efficiency_svg};
