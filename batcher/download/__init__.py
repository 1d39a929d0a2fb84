"""From a URL to a file that is whole: stream, verify, make durable.

:class:`Downloader` is the way in; the rest is one decision a module: ``trust`` (which hosts and
addresses), ``answer`` (what headers mean), ``media`` (what a file is), ``patience`` (how long to go on
trying), ``sink`` (bytes to disk), ``transfer`` (one attempt).
"""

from batcher.download.downloader import Downloader, Fetcher
from batcher.download.patience import DownloadLimits
from batcher.download.transfer import Fetched
from batcher.download.trust import TrustPolicy

__all__ = ["DownloadLimits", "Downloader", "Fetched", "Fetcher", "TrustPolicy"]
