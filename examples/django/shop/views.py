import json

from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from finmind_client.transaction import enqueue
from shop.models import User


@csrf_exempt
@require_POST
def create_user(request: HttpRequest) -> JsonResponse:
    email = json.loads(request.body)["email"]
    try:
        with transaction.atomic():
            User.objects.create(email=email)
            job = enqueue(connection, "send_welcome", {"email": email})
    except IntegrityError:  # nothing was committed: no second welcome
        return JsonResponse({"error": f"{email} has an account already"}, status=409)
    return JsonResponse({"job_id": job.id}, status=201)
