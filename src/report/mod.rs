//! Pictures and tables for people, from plain numbers: no knowledge of models, no printing.

mod canvas;
mod chart;
mod format;
mod heatmap;
mod letters;
mod notes;
mod page;
mod palette;
pub mod run;
mod scale;
mod table;
mod terminal;
mod triangle;

pub use canvas::{Canvas, Figure};
pub use chart::{Dot, Errors, Level, LineChart, Look, Point, Series, means};
pub use format::PictureFormat;
pub use heatmap::HeatMap;
pub use page::{Drawing, NamedFigure, NamedTable, figures, mark, page, tables};
pub(crate) use page::{advice, story};
pub use table::{BestRow, Column, table};
pub(crate) use table::{best_table, with_error};
pub use terminal::Paint;
pub(crate) use terminal::{strip, triangle_map};
pub use triangle::Triangle;
