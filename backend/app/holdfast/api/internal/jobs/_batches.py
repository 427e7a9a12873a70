"""Batches of jobs over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Request

from holdfast.api.internal.jobs import _models
from holdfast.api.internal.jobs._http import strictly

if TYPE_CHECKING:
    from holdfast.api.internal.jobs._context import Context

_Batch = Annotated[str, Path(min_length=1, max_length=1000, description="The batch's id.")]
_NewBatch = Annotated[_models.NewBatch, Depends(strictly(_models.NewBatch))]
_Nothing = Annotated[_models.Nothing, Depends(strictly(_models.Nothing))]


class Batches:
    """The routes of batches; their jobs are listed with the others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.reads("/batches/{batch:path}", self.get_batch, _models.BatchOf, 422)
        context.operates("/batches", self.create_batch, _models.BatchOf, _models.NewBatch)
        context.operates(
            "/batches/{batch:path}/cancel", self.cancel_batch, _models.BatchOf, _models.Nothing, 409
        )

    def create_batch(self, request: Request, body: _NewBatch) -> Any:
        """Store a batch, or return the one of this id."""
        return self._context.jobs(request).create_batch(body.name, batch_id=body.id)

    def get_batch(self, request: Request, batch: _Batch) -> Any:
        """Return a batch and how far it is."""
        return self._context.jobs(request).batch(batch)

    def cancel_batch(self, request: Request, batch: _Batch, body: _Nothing) -> Any:
        """Cancel every job of a batch that has not ended."""
        return self._context.jobs(request).cancel_batch(batch)
