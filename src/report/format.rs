//! Where a picture is to be seen: how large it is, and what it says itself.

/// A file of its own, or a part of a page that says around it what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PictureFormat {
    /// A file: title, notes and legend are part of the picture.
    #[default]
    Sheet,
    /// A column of a page: the page has title and notes.
    Column,
    /// The same on a phone.
    Phone,
}

impl PictureFormat {
    /// Whether title and notes are part of the picture.
    pub(super) fn has_title(self) -> bool {
        self == Self::Sheet
    }
}
