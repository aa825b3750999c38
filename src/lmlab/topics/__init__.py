"""Topics: what lmlab measures, a folder each: options, measures, tables, figures, report, study."""
