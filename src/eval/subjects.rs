//! The 57 subjects of MMLU (arXiv 2009.03300) and the four groups they are averaged in.

/// A group of subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    Stem,
    Other,
    SocialSciences,
    Humanities,
}

impl Category {
    /// In the order of the reference's group file.
    pub(super) const ALL: [Self; 4] = [Self::Stem, Self::Other, Self::SocialSciences, Self::Humanities];

    /// The group's task name.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Stem => "mmlu_stem",
            Self::Other => "mmlu_other",
            Self::SocialSciences => "mmlu_social_sciences",
            Self::Humanities => "mmlu_humanities",
        }
    }

    /// The group's name in tables.
    pub(super) fn alias(self) -> &'static str {
        match self {
            Self::Stem => "stem",
            Self::Other => "other",
            Self::SocialSciences => "social sciences",
            Self::Humanities => "humanities",
        }
    }
}

use Category::{Humanities, Other, SocialSciences, Stem};

/// Every subject with its category, in alphabetical order.
#[rustfmt::skip]
pub(super) const SUBJECTS: [(&str, Category); 57] = [
    ("abstract_algebra", Stem),
    ("anatomy", Stem),
    ("astronomy", Stem),
    ("business_ethics", Other),
    ("clinical_knowledge", Other),
    ("college_biology", Stem),
    ("college_chemistry", Stem),
    ("college_computer_science", Stem),
    ("college_mathematics", Stem),
    ("college_medicine", Other),
    ("college_physics", Stem),
    ("computer_security", Stem),
    ("conceptual_physics", Stem),
    ("econometrics", SocialSciences),
    ("electrical_engineering", Stem),
    ("elementary_mathematics", Stem),
    ("formal_logic", Humanities),
    ("global_facts", Other),
    ("high_school_biology", Stem),
    ("high_school_chemistry", Stem),
    ("high_school_computer_science", Stem),
    ("high_school_european_history", Humanities),
    ("high_school_geography", SocialSciences),
    ("high_school_government_and_politics", SocialSciences),
    ("high_school_macroeconomics", SocialSciences),
    ("high_school_mathematics", Stem),
    ("high_school_microeconomics", SocialSciences),
    ("high_school_physics", Stem),
    ("high_school_psychology", SocialSciences),
    ("high_school_statistics", Stem),
    ("high_school_us_history", Humanities),
    ("high_school_world_history", Humanities),
    ("human_aging", Other),
    ("human_sexuality", SocialSciences),
    ("international_law", Humanities),
    ("jurisprudence", Humanities),
    ("logical_fallacies", Humanities),
    ("machine_learning", Stem),
    ("management", Other),
    ("marketing", Other),
    ("medical_genetics", Other),
    ("miscellaneous", Other),
    ("moral_disputes", Humanities),
    ("moral_scenarios", Humanities),
    ("nutrition", Other),
    ("philosophy", Humanities),
    ("prehistory", Humanities),
    ("professional_accounting", Other),
    ("professional_law", Humanities),
    ("professional_medicine", Other),
    ("professional_psychology", SocialSciences),
    ("public_relations", SocialSciences),
    ("security_studies", SocialSciences),
    ("sociology", SocialSciences),
    ("us_foreign_policy", SocialSciences),
    ("virology", Other),
    ("world_religions", Humanities),
];

/// Category of a subject; `None` for a subject of the user's own.
pub(super) fn category(subject: &str) -> Option<Category> {
    SUBJECTS.iter().find(|(name, _)| *name == subject).map(|(_, category)| *category)
}
