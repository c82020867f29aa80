//! Pictures and tables for people, from plain numbers: no knowledge of models, no printing.

mod canvas;
mod chart;
mod heatmap;
mod letters;
pub mod run;
mod scale;
mod table;
mod terminal;
mod triangle;

pub use canvas::{Canvas, Figure};
pub use chart::{LineChart, Point, Series};
pub use heatmap::HeatMap;
pub use table::{BestRow, Column, best_table, table};
pub use terminal::{Paint, strip, triangle_map};
pub use triangle::Triangle;
