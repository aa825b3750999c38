"""What all studies share: corpora, run requests, parts, workers, status.

Runs, and what is measured of each, are kept in the lab folder under the digest of what decides
them: an interrupted study goes on where it stopped, and studies share runs.
"""
