from .certify import CertificateWork as CertificateWork
from .certify import certify_addition as certify_addition
from .result import Certificate as Certificate
from .tables import certificate_tables as certificate_tables
