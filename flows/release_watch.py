"""models.v1 and the artefact store → the models that decide and shadow, swapped between batches; never a traceback.

Every process of `weir decide` reads models.v1 to its end before its first decision, and goes on reading in a thread.
What is announced as champion, canary or challenger is fetched, checked and made a model there; the flow's thread only
takes the roster that is ready, whole. What is unsigned, altered, too large or of another feature set is refused: it is
told, counted, and what its model had served before goes on. A rival that is refused costs nothing but itself. The
champion in use is kept beside the state, so that a start comes up with it though the store is out of reach.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException

from flows.champion_cache import ChampionCache
from flows.logs import event_log, fields
from flows.model_hooks import ModelHooks, NoModelHooks
from flows.releases import ReleaseReader, ReleaseSource
from flows.source import Run
from operators.features import FeatureSet
from operators.model import Model
from operators.releases import CANARY, CHALLENGER, CHAMPION, Release, ReleaseLog
from operators.roster import Announced
from schemas.errors import ProfileError, StreamError
from state.artefacts import FEATURE_SET, MISSING, PROFILE, UNREACHABLE, UNREADABLE, ArtefactError

_RETRY_S: Final = 5.0
"""Between attempts to fetch what could not be reached or found. Shorter: a load on a store that is down."""
LOADED: Final = "loaded"

RestoreModel = Callable[[bytes | None], Model]


class ReleaseWatch:
    """The announced models; call it for the roster of now. See `operators.steering.ModelSource`."""

    def __init__(
        self,
        source: ReleaseSource,
        feature_set: FeatureSet,
        restores: Mapping[str, RestoreModel],
        cache: Path,
        run: Run,
        hooks: ModelHooks | None = None,
    ) -> None:
        """Prepare; `start` reads.

        Args:
            source: Where releases come from.
            feature_set: Of the profile.
            restores: By id of the models declared, the champion first: makes one of its bytes; of None, what decides
                before the first champion.
            cache: Folder for the champion in use.
            run: Of the process.
            hooks: Told of loads and refusals.
        """
        self._source = source
        self._features = feature_set
        self._restores = dict(restores)
        self._cache = ChampionCache(cache, source.keys)
        self._run = run
        self._hooks = hooks or NoModelHooks()
        self._log = event_log("models")
        self._releases = ReleaseLog()
        self._refusals: set[tuple[str, int]] = set()  # (sha256, offset) that were refused for good
        self._retry_at: dict[str, float] = {}
        self._created_us = 0
        first = next(iter(self._restores.values()))(None)
        self._champion: tuple[Model, str] = (first, first.artefact_hash())
        self._held: dict[str, Model] = {}  # by sha256: the rivals that are ready
        self._rivals: dict[str, str] = {}  # sha256 that each serves with
        self._current = Announced((first,), {first.id: self._champion[1]})
        self._reader: ReleaseReader | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def __call__(self) -> Announced:
        """The models of now."""
        return self._current

    def start(self) -> None:
        """Read models.v1 to its end and load what is announced there; then go on in a thread.

        Raises:
            StreamError: The topic cannot be read.
        """
        self._recall()
        self._reader = ReleaseReader(self._source, self._run, self._refused)
        for release in self._reader.to_end():
            self._apply(release)
        self._serve()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._reader is not None:
            self._reader.close()

    def _follow(self) -> None:
        while not self._done.is_set() and self._reader is not None:
            try:
                for release in self._reader.more():
                    self._apply(release)
            except (StreamError, KafkaException) as error:
                # Deciding goes on with the models at hand; the flow's own clients tell whether brokers refuse us.
                self._log.error("models_unreadable", extra=fields(error=str(error)))
                self._done.wait(_RETRY_S)
            self._serve()

    def _apply(self, release: Release) -> None:
        log = self._releases
        held_up = log.held_up
        log.apply(release)
        if log.held_up > held_up:
            told = (
                f"{release.name} was announced as {release.stage}, and a person has frozen the champion: weir models "
                "unfreeze"
            )
            self._log.warning("release_held_up", extra=fields(told=told))
        if log.champion is release and release.sha256 == self._champion[1]:
            self._hooks.model_load("unchanged", 0.0, self._created_us, release.frozen)

    def _serve(self) -> None:
        """Load what is announced and not here yet. The champion does not wait for what its rivals take."""
        champion = self._releases.champion
        if champion is not None and champion.sha256 != self._champion[1]:
            model = self._held.get(champion.sha256) or self._obtain(champion)
            if model is not None:
                before, self._champion = self._champion, (model, champion.sha256)
                self._held[before[1]] = before[0]  # it may go on as a challenger
                self._created_us = int(champion.record["created_at"])
                self._remember(champion, model)
        self._swap()
        missing = [release for _, release in self._wanted() if release.sha256 not in self._held]
        for release in missing:
            model = self._obtain(release)
            if model is not None:
                self._held[release.sha256] = model
        if missing:
            self._swap()

    def _wanted(self) -> Iterator[tuple[str, Release]]:
        """(stage, release) of the champion's rivals."""
        log, decides = self._releases, self._champion[0].id
        if log.canary is not None and log.canary.model_id != decides:
            yield CANARY, log.canary
        for model in self._restores:
            release = log.challengers.get(model)
            if release is not None and model != decides:
                yield CHALLENGER, release
        for model, release in log.challengers.items():
            if model not in self._restores:
                yield CHALLENGER, release  # refused, and told why

    def _swap(self) -> None:
        """Let batches have what is ready from now on, as one roster."""
        champion, sha256 = self._champion
        models, hashes, canary = [champion], {champion.id: sha256}, None
        for stage, release in self._wanted():
            name = release.model_id
            served = release.sha256 if release.sha256 in self._held else self._rivals.get(name)
            if served is None:
                continue
            # A canary whose new artefact is refused goes on as it was; one that was none yet decides nobody.
            if stage == CANARY and (served == release.sha256 or self._current.canary == name):
                canary = name
            models.append(self._held[served])
            hashes[name] = served
        rivals = {model.id: hashes[model.id] for model in models[1:]}
        self._rivals = rivals
        self._held = {one: model for one, model in self._held.items() if one in rivals.values()}
        # Equal mappings may have another champion: it and a rival have changed places.
        now = self._current
        if (champion.id, canary, hashes) != (now.models[0].id, now.canary, now.hashes):
            self._current = Announced(tuple(models), hashes, canary)
            self._hooks.serving(1, int(canary is not None), len(rivals) - int(canary is not None))
            self._log.info("roster", extra=fields(champion=champion.id, canary=canary, models=hashes))

    def _obtain(self, release: Release) -> Model | None:
        """The model of a release, None when it cannot be had, which is told."""
        key = (release.sha256, release.offset)
        if key in self._refusals or time.monotonic() < self._retry_at.get(release.sha256, 0.0):
            return None
        if not self._thread.is_alive():  # at the start: afterwards the pulse is that of the flow's thread
            self._run.pulse.beat(f"loading {release.name}")
        began = time.monotonic()
        try:
            model, size = self._load(release)
        except ArtefactError as error:
            if error.reason in (UNREACHABLE, MISSING):  # a folder that is not mounted holds nothing
                self._retry_at[release.sha256] = time.monotonic() + _RETRY_S
            else:
                self._refusals.add(key)
            self._refused(error.reason, f"{release.name}, announced as {release.stage}: {error}")
            return None
        self._retry_at.pop(release.sha256, None)
        seconds = time.monotonic() - began
        created_us = int(release.record["created_at"]) if release.stage == CHAMPION else self._created_us
        self._hooks.model_load(LOADED, seconds, created_us, self._releases.frozen)
        told = {"model": release.name, "stage": release.stage, "sha256": release.sha256, "bytes": size}
        self._log.info("model_loaded", extra=fields(**told, seconds=round(seconds, 3)))
        return model

    def _load(self, release: Release, kept: bytes | None = None) -> tuple[Model, int]:
        """The model of a release, and the size of its artefact.

        Raises:
            ArtefactError: It must not or cannot be used.
        """
        wanted, own = release.record["feature_set_hash"], self._features.hash
        if wanted != own:
            reason = (
                f"it was trained on feature set {wanted[:12]}, this flow has {own[:12]}: a model is served only with "
                "the feature set it was trained on"
            )
            raise ArtefactError(FEATURE_SET, reason)
        restore = self._restores.get(release.model_id)
        if restore is None:
            reason = f"learning.toml declares {', '.join(self._restores)} and no model {release.model_id!r}"
            raise ArtefactError(PROFILE, reason)
        artefact = self._source.store.get(release.sha256) if kept is None else kept
        try:
            model = restore(artefact)
            values = (self._features.new_values(),)
            model.explain_many(values, 5)  # compiled before the first payment needs it
            model.score_many(values)
        except ProfileError as error:
            raise ArtefactError(PROFILE, str(error)) from error
        except Exception as error:  # whatever bytes do to whoever reads them is told in a sentence
            raise ArtefactError(UNREADABLE, f"it cannot be made a model ({type(error).__name__}: {error})") from error
        return model, len(artefact)

    def _refused(self, reason: str, told: str) -> None:
        self._hooks.model_load(reason, 0.0, self._created_us, self._releases.frozen)
        self._log.error("release_refused", extra=fields(reason=reason, told=told, decides=self._champion[1]))

    def _remember(self, release: Release, model: Model) -> None:
        """Keep the champion beside the state; a disk that refuses costs no decision."""
        try:
            self._cache.keep(release, model.to_bytes())
        except OSError as error:
            self._log.warning("champion_not_kept", extra=fields(error=str(error), folder=str(self._cache.folder)))

    def _recall(self) -> None:
        """Come up with the champion of the run before; its signature and bytes are checked like any other's."""
        kept = self._cache.recall(self._refused)
        if kept is None:
            return
        release, artefact = kept
        try:
            model, _ = self._load(release, artefact)
        except ArtefactError as error:
            self._refused(error.reason, f"{release.name}, kept from the run before: {error}")
            return
        self._created_us = int(release.record["created_at"])
        self._champion = (model, release.sha256)
        self._swap()
