//! Charts as SVG, without a library: what is drawn is a handful of lines, steps, dots and bars, and every mark has a class, so that
//! the page's style colours it by day and by night.
//!
//! ```text
//! scale   round ticks, numbers as people read them    plot   lines, steps and dots over two axes
//! bars    stacked bars by stage
//! ```

mod bars;
mod plot;
mod scale;

pub(super) use bars::{Bar, BarChart, BarPart};
pub(super) use plot::{Plot, PlotSeries, SeriesForm};
pub(super) use scale::NumberForm;
