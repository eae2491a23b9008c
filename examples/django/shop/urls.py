from django.urls import path

from shop.views import create_user

urlpatterns = [path("users", create_user)]
